"""Loss of float16 in each part of LINF's fused query stage, against its float32 graph.

The definitions of the kernels in PyTorch round where the kernels round and add in float32, so
that a CPU shows what half costs. The hardware's cosine and sine, whose error is a 256th of a
half's rounding, are not in it.

Example:
    python -m benchmarks.precision_fused --json precision-fused.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.precision import SCALES, Figures, error_stats, exact_outputs, markdown, outputs
from flowsr_export.deployment.families import deployment_of
from flowsr_export.graph.linf.fused import FusedLinfGraph, fused
from flowsr_export.graph.linf.network import LinfGraph
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_lp import LinfLP, embedded_checkpoint, load_checkpoint

__all__ = ["PARTS", "PartGraph", "part_figures"]

FIRST, PRODUCTS, ENCODE, DECODE = "first product", "other products", "encode", "decode"
PARTS = (FIRST, PRODUCTS, ENCODE, DECODE)


class PartGraph(FusedLinfGraph):
    """The fused graph in float32 with some of its parts in float16."""

    def __init__(self, graph: LinfGraph, halves: frozenset[str]) -> None:
        """Fuse a float32 `graph`, the parts in `halves` with weights in float16."""
        super().__init__(graph)
        self.halves = halves
        if FIRST in halves:
            self.first, self.first_bias = self.first.half(), self.first_bias.half()
        if PRODUCTS in halves:
            self.weights, self.biases = (
                nn.ParameterList(x.detach().half() for x in each)
                for each in (self.weights, self.biases)
            )
            self.last = self.last.half()
        if ENCODE in halves:
            self.encode_matrices = self.encode_matrices.half()
        if DECODE in halves:
            self.decode_matrices = self.decode_matrices.half()

    def _features(self, x: Tensor) -> Tensor:
        features = super()._features(x)
        return features.half() if FIRST in self.halves else features

    def _products(self, out: Tensor) -> Tensor:
        return super()._products(out.half() if PRODUCTS in self.halves else out.float())

    def _flow(self, z: Tensor, affine: Tensor, *, inverse: bool) -> Tensor:
        if (DECODE if inverse else ENCODE) not in self.halves:
            return super()._flow(z, affine.float(), inverse=inverse)
        if inverse:
            return super()._flow(z.half(), affine.half(), inverse=True)
        return super()._flow(z, affine.half(), inverse=False).half().float()


def part_figures(
    network: LinfLP, named: str, graph: nn.Module, exact: dict[str, NDArray[np.float32]]
) -> Iterator[Figures]:
    """Compare a graph with float32 at every scale.

    Args:
        network: LINF-LP in evaluation mode, with a learned prior.
        named: Name of the row.
        graph: Graph of `network`, in evaluation mode.
        exact: Outputs from `exact_outputs`.

    Yields:
        Differences at each scale.
    """
    deployment = deployment_of(network)
    emulator = HalfPrecisionEmulator(deployment, "fp32", None)
    emulator._graph = graph
    for scale in SCALES:
        side = round(exact[scale].shape[-1] / Fraction(scale))
        output = outputs(emulator, deployment, scale, side)
        yield error_stats("fp16", named, scale, exact[scale], output)


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="LINF checkpoint.")
@click.option("--prior", type=click.Path(path_type=Path), help="Its latent module.")
@click.option("--lr", type=int, default=64, show_default=True, help="Pixels a side.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the values.")
def main(model: Path | None, prior: Path | None, lr: int, report: Path | None) -> None:
    """Print a table: PSNR, 99.9th percentile and largest difference in eight-bit steps."""
    files = embedded_checkpoint() if model is None else (model, prior)
    network = load_checkpoint(*files).network
    assert isinstance(network, LinfLP)
    exact = exact_outputs(network, lr)
    plain, half = (LinfGraph(network, dtype).eval() for dtype in (torch.float32, torch.half))
    graphs: dict[str, nn.Module] = {
        name: PartGraph(plain, frozenset({name})).eval() for name in PARTS
    }
    graphs["all four"] = PartGraph(plain, frozenset(PARTS)).eval()
    graphs["the whole graph, fused"] = fused(half)
    graphs["the whole graph, not fused"] = half
    rows = [
        row
        for name, graph in graphs.items()
        for row in part_figures(network, name, graph, exact)
    ]
    click.echo(markdown(rows, "in float16"))
    if report is not None:
        report.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
