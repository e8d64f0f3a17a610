"""Loss of float16 in each part of LINF's fused query stage, against its float32 graph.

The definitions of the kernels in PyTorch round where the kernels round and add in float32, so
that a CPU shows what half costs. The hardware's cosine and sine, whose error is a 256th of a
half's rounding, are not in it.

Example:
    python -m benchmarks.precision.fused --json precision-fused.json
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor, nn

from benchmarks.precision.figures import (
    exact_outputs,
    graph_figures,
    linf_of,
    markdown,
    measurement_options,
    write_figures,
)
from flowsr_export.graph.linf.fused import FusedLinfGraph, fused
from flowsr_export.graph.linf.network import LinfGraph

__all__ = ["PARTS", "PartGraph"]

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


@click.command()
@measurement_options(64)
def main(model: Path | None, prior: Path | None, lr: int, report: Path | None) -> None:
    """Print a table: PSNR, 99.9th percentile and largest difference in eight-bit steps."""
    network = linf_of(model, prior)
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
        for row in graph_figures(network, graph, exact, "fp16", name)
    ]
    click.echo(markdown(rows, "in float16"))
    write_figures(rows, report)


if __name__ == "__main__":
    main()
