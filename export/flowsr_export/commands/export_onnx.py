"""The `export-onnx` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.session import force_option, json_option, parse_blocks

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Precision
    from flowsr_export.parity.compare import ErrorStats
    from flowsr_runtime import Bundle
    from flowsr_runtime.bundle.manifest import Io

__all__ = ["command"]

FILE = click.Path(path_type=Path)
LICENCES = {
    "linf-lp": "see the checkpoint's source",
    "srflow-lp": "see the checkpoint's source; SRFlow's released ones are CC BY-NC-SA 4.0, "
    "for research only",
}


@click.command("export-onnx")
@click.option("--model", type=FILE, help="LINF or SRFlow file; without it the built-in one.")
@click.option("--prior", type=FILE, help="Latent module; without it the graph takes latents.")
@click.option(
    "--blocks",
    type=parse_blocks,
    metavar="I,I,…",
    help="Stacked blocks of an SRFlow network that its file does not tell.",
)
@click.option("-o", "--output", type=FILE, required=True, help="Directory of the bundle.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    default="fp32",
    show_default=True,
    help="Type of the heavy layers; geometry, phase and flow stay float32.",
)
@click.option(
    "--scale",
    help="Build the single-input graph of this one scale, as in 4 or 2.7, for whole pictures.",
)
@click.option(
    "--opset",
    type=click.IntRange(18, 19),
    show_default="18; 22 in bf16",
    help="ONNX operator set; bf16 has one of its own.",
)
@click.option(
    "--io",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="Type of the graph's pictures; uint8 is converted, clamped and rounded in the graph.",
)
@force_option
@json_option
def command(
    model: Path | None,
    prior: Path | None,
    blocks: tuple[int, ...] | None,
    output: Path,
    precision: Precision,
    scale: str | None,
    opset: int | None,
    io: Io,
    force: bool,
    as_json: bool,
) -> None:
    """Turn checkpoints into a bundle that serves any scale, checked before it is kept.

    A bundle of SRFlow serves the scale of its network; --scale, which must be that one, gives
    it a graph of the single input `input`, whose sides must be even.

    The graph is linted and compared with PyTorch on sizes and scales that it was not traced
    with; a difference ends with exit code 3 and writes nothing. With --io uint8 it is compared
    in eight-bit steps as well, and an upscale cannot see an inverse that explodes.

    \b
    Examples:
      flowsr-export export-onnx --model linf.pth --prior linf-LP.pth -o edsr.bundle
      flowsr-export export-onnx -o small-x4.bundle --scale 4
      flowsr-export export-onnx -o small.bundle --precision fp16 --io uint8
      flowsr-export export-onnx --model SRFlow_DF2K_4X.pth --prior SRFlow-LP.pth -o x4.bundle
    """
    import json

    from flowsr_runtime.bundle.directory import check_replaceable
    from flowsr_runtime.errors import UsageError
    from flowsr_runtime.geometry import exact_scale

    if model is None and prior is not None:
        raise UsageError("--prior needs --model: the built-in model has a prior of its own")
    fixed = None if scale is None else exact_scale(scale)
    check_replaceable(output, force)

    from flowsr_export.export_onnx.bundle import STEPS, build_bundle
    from flowsr_export.export_onnx.manifest import Request
    from flowsr_export.options.progress import progress
    from flowsr_lp import embedded_checkpoint, load_checkpoint

    built_in = model is None
    if model is None:
        model, prior = embedded_checkpoint()
    checkpoint = load_checkpoint(model, prior, blocks)
    licence = "Apache-2.0" if built_in else LICENCES[checkpoint.family]
    request = Request(precision, fixed, opset, licence, io)
    with progress("export", len(STEPS)) as bar:
        notes = iter([0, 1, 1, 1, 1])
        bundle, figures = build_bundle(
            checkpoint, output, request, force, lambda step: bar.advance(next(notes), step)
        )
        bar.advance(1, "done")
    if as_json:
        manifest = dict(bundle.manifest.raw)
        click.echo(json.dumps({"path": str(output), "manifest": manifest}, indent=1))
        return
    _print(bundle, precision, figures, licence)


def _print(bundle: Bundle, precision: str, figures: list[ErrorStats], licence: str) -> None:
    from flowsr_export.export_onnx.bundle import worst

    most = worst(figures)
    click.echo(
        f"{bundle.path}  {bundle.manifest.files[f'model.{precision}.onnx'].bytes / 1e6:.2f} MB"
    )
    click.echo(
        f"agrees with PyTorch in {len(figures)} cases; worst {most.max_abs:.1e} of full range, "
        f"{most.max_steps} eight-bit steps, at {most.case}"
    )
    click.echo(f"licence of the weights: {licence}")
