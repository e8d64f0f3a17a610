"""Loss of float16 in SRFlow-LP: its graph with emulated rounding against float32.

Each row but the first switches one float32 part to float16. By default the network has the
stand-in weights of `benchmarks.stand_in_checkpoint`.

Example:
    python -m benchmarks.precision.srflow --json precision-srflow.json
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.precision.figures import (
    PHOTOGRAPHS,
    Figures,
    error_stats,
    markdown,
    measurement_options,
    outputs,
    write_figures,
)
from benchmarks.stand_in_checkpoint import SRFLOW, SRFLOW_PRIOR, calm
from flowsr_export.deployment.families import deployment_of
from flowsr_export.graph.srflow.level import Condition, LevelGraph
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_lp import SrflowLP, load_checkpoint
from flowsr_runtime import UsageError
from tests import stand_in

__all__ = ["PARTS", "island_figures"]

HALF = torch.float16


class HalfLayer(nn.Module):
    """A float32 layer with operands and output in float16."""

    def __init__(self, layer: nn.Module) -> None:
        """Copy `layer`, a convolution."""
        super().__init__()
        assert isinstance(layer, nn.Conv2d)
        self.in_channels = layer.in_channels
        self.layer = copy.deepcopy(layer).to(HALF)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer and return float32."""
        out: Tensor = self.layer(x.to(HALF))
        return out.float()


class HalfFlow(LevelGraph):
    """A level with inputs and outputs in float16."""

    def encode(
        self, x: Tensor, conditions: Sequence[Condition]
    ) -> tuple[Tensor, Tensor | None]:
        """Encode; see `LevelGraph`."""
        rest, latent = super().encode(_rounded(x), [_halved(c) for c in conditions])
        return _rounded(rest), None if latent is None else _rounded(latent)

    def decode(self, x: Tensor, eps: Tensor | None, conditions: Sequence[Condition]) -> Tensor:
        """Decode; see `LevelGraph`."""
        eps = None if eps is None else _rounded(eps)
        return _rounded(super().decode(_rounded(x), eps, [_halved(c) for c in conditions]))


def _rounded(x: Tensor) -> Tensor:
    return x.to(HALF).float()


def _halved(condition: Condition) -> Condition:
    return Condition(*(_rounded(part) for part in condition))


def _switch_nets(level: LevelGraph) -> None:
    for step in level.steps:
        for name in ("own", "middle", "last"):
            setattr(step, name, HalfLayer(step.get_submodule(name)))


def _switch_maps(level: LevelGraph) -> None:
    level.forward_maps = nn.ModuleList(map(HalfLayer, level.forward_maps))
    level.inverse_maps = nn.ModuleList(map(HalfLayer, level.inverse_maps))
    if level.split is not None:
        level.split = HalfLayer(level.split)  # type: ignore[assignment]


def _switch_flow(level: LevelGraph) -> None:
    level.__class__ = HalfFlow


# Functions that switch parts of a level to float16.
PARTS: dict[str, tuple[Callable[[LevelGraph], None], ...]] = {
    "none, as deployed": (),
    "the couplings' own nets": (_switch_nets,),
    "1x1 maps and splits": (_switch_maps,),
    "what levels hand on and read": (_switch_flow,),
    "all of them": (_switch_nets, _switch_maps, _switch_flow),
}


def island_figures(network: SrflowLP, lr: int) -> list[Figures]:
    """Compare every part with the float32 graph.

    Args:
        network: SRFlow-LP in evaluation mode.
        lr: Side of the photographs' crops, low-resolution pixels; even.

    Returns:
        Differences for each entry of `PARTS`, the largest of the photographs.
    """
    deployment, scale = deployment_of(network), str(network.srflow.scale)
    exact = outputs(HalfPrecisionEmulator(deployment, "fp32", None), deployment, scale, lr)
    rows = []
    for name, switches in PARTS.items():
        rounded = HalfPrecisionEmulator(deployment, "fp16", None)
        levels = rounded._graph.levels
        assert isinstance(levels, nn.ModuleList)
        for level in levels:
            assert isinstance(level, LevelGraph)
            for switch in switches:
                switch(level)
        output = outputs(rounded, deployment, scale, lr)
        rows.append(error_stats("fp16", name, scale, exact, output))
        if not np.isfinite(output).all():
            rows[-1] = Figures("fp16", name, scale, float("nan"), float("nan"), float("nan"))
    return rows


@click.command()
@measurement_options(32)
def main(model: Path | None, prior: Path | None, lr: int, report: Path | None) -> None:
    """Print PSNR, 99.9th percentile and largest difference in eight-bit steps."""
    if model is None:
        network = calm(stand_in.srflow_network(SRFLOW, SRFLOW_PRIOR)).eval()
    else:
        loaded = load_checkpoint(model, prior).network
        if not isinstance(loaded, SrflowLP):
            raise UsageError(
                f"model must be SRFlow, got {model}; use benchmarks.precision.linf"
            )
        network = loaded
    rows = island_figures(network, lr)
    click.echo(f"{PHOTOGRAPHS} photographs, {lr}x{lr}, x{network.srflow.scale}\n")
    click.echo(markdown(rows, "also in float16", (str(network.srflow.scale),)))
    write_figures(rows, report)


if __name__ == "__main__":
    main()
