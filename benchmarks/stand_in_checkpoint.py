"""Checkpoints of the published sizes with stand-in weights, to export and measure.

The authors' weights may not be redistributed; speed, memory and agreement with PyTorch do not
depend on them. Equal names always get equal weights.

Example:
    python -m benchmarks.stand_in_checkpoint srflow -o build/srflow
    flowsr-export export-onnx --model build/srflow/model.safetensors \
        --prior build/srflow/prior.safetensors -o build/srflow.bundle
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from torch.nn import functional as F

from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_lp import SrflowLP, save_weights
from flowsr_lp.training.srflow import fit_norms
from tests import stand_in

__all__ = ["MODEL", "PRIOR", "SRFLOW", "SRFLOW_PRIOR", "calm"]

MODEL: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 16, "n_feats": 64}},
        "flow_layers": 10,
        "num_layer": 3,
        "hidden_dim": 256,
        "patch_size": 3,
    },
}
PRIOR: dict[str, Any] = {"name": "unet", "args": {"in_chans": 27, "depth": 3, "dim": 64}}
SRFLOW: dict[str, Any] = {
    "name": "srflow",
    "args": {"scale": 4, "nb": 23, "K": 16, "L": 3, "blocks": [1, 8, 15, 22]},
}
SRFLOW_PRIOR: dict[str, Any] = {
    "name": "unet",
    "args": {"in_chans": [6, 96], "depth": 3, "dim": 64},
}


def _with(encoder: dict[str, Any], *, pixel: bool = False) -> dict[str, Any]:
    """Return `MODEL` with another encoder, of patches or of single pixels."""
    args = {**MODEL["args"], "encoder_spec": encoder}
    if pixel:
        del args["patch_size"]
    return {"name": "linf" if pixel else MODEL["name"], "args": args}


RELEASED = {"linf": "edsr-baseline-linf", "linf-rrdb": "rrdb-linf"}
RRDB_ENCODER = {"name": "rrdb", "args": {"nf": 64, "nb": 23, "gc": 32}}
SWINIR_ENCODER = {"name": "swinir", "args": {}}
# The model and the prior of each LINF network.
LINF: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "linf": (MODEL, PRIOR),
    "linf-rrdb": (_with(RRDB_ENCODER), PRIOR),
    "linf-swinir": (_with(SWINIR_ENCODER), PRIOR),
    "linf-swinir-pixel": (_with(SWINIR_ENCODER, pixel=True), None),
}
SIXTH = 6.0  # divisor of the output of a LINF network
# Factor of the last convolutions of couplings and prior: without it the inverse amplifies the
# prior's output to many times the range of an image.
GAIN = 0.1
# Also of the conditioner's last layer with SwinIR: ten layers of larger factors amplify the
# rounding of float16 beyond the tolerance.
LAST = re.compile(r"\.affine\.f(Affine|Features)\.4\.weight$|^prior\.outc\d\.")
FITTED_LR = 32  # low-resolution side of the photographs that the norms are fitted to


def calm(network: SrflowLP) -> SrflowLP:
    """Scale latents to unit variance and outputs to the range of an image, in place.

    ActNorms are fitted to photographs, as before training.
    """
    side = network.srflow.scale * FITTED_LR
    high = torch.from_numpy(sample_pictures(Case((side, side), (side, side), batch=2)))
    low = F.interpolate(high, size=(FITTED_LR, FITTED_LR), mode="bilinear", antialias=True)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if LAST.search(name):
                parameter.mul_(GAIN)
    fit_norms(network.srflow, low, high)
    return network


@click.command()
@click.argument("system", type=click.Choice([*LINF, "srflow"]))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder.")
@click.option(
    "--half",
    is_flag=True,
    help="Divide the output of a LINF network by six; then float16 is within its tolerance.",
)
@click.option(
    "--released",
    is_flag=True,
    help="Write a LINF network under the names and in the form of the released files.",
)
def main(system: str, output: Path, half: bool, released: bool) -> None:
    """Write OUTPUT/model.safetensors and, if it has a prior, OUTPUT/prior.safetensors."""
    flow: nn.Module
    prior: nn.Module | None
    specs: tuple[dict[str, Any], dict[str, Any] | None]
    if released and system not in RELEASED:
        raise click.UsageError(f"--released needs linf or linf-rrdb, got {system}")
    if system in LINF:
        specs = LINF[system]
        linf = stand_in.network(*specs)
        flow, prior = linf.linf, linf.prior
        with torch.no_grad():
            if "swinir" in system:
                for parameter in linf.linf.layers[-1].parameters():
                    parameter.mul_(GAIN)
            if half:  # encode grows, and its inverse shrinks
                flow.get_parameter("imnet.linears.0._weight").mul_(SIXTH)
    else:
        srflow = calm(stand_in.srflow_network(SRFLOW, SRFLOW_PRIOR))
        specs, flow, prior = (SRFLOW, SRFLOW_PRIOR), srflow.srflow, srflow.prior
    if released:
        _save_released(output / RELEASED[system], [(specs[0], flow), (specs[1], prior)])
        return
    save_weights(output / "model.safetensors", "model", specs[0], flow.state_dict())
    if prior is not None and specs[1] is not None:
        save_weights(output / "prior.safetensors", "prior", specs[1], prior.state_dict())


def _save_released(path: Path, parts: Sequence[tuple[Any, nn.Module | None]]) -> None:
    """Write a model and its prior as PyTorch files, as the authors' repository has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for (spec, part), key, end in zip(
        parts, ("model", "prior_model"), ("", "-LP"), strict=True
    ):
        assert part is not None
        torch.save({key: spec | {"sd": part.state_dict()}}, f"{path}{end}.pth")


if __name__ == "__main__":
    main()
