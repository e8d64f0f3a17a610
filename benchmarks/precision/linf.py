"""Loss of half precision: the deployed graph with emulated rounding against float32.

The graph runs in PyTorch on the shipped photographs. The second table switches the float32
islands to half precision one at a time, which shows why they are islands, and the flow to
float32, which shows that it need not be one.

Example:
    python -m benchmarks.precision.linf --json precision.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.precision.figures import (
    Figures,
    exact_outputs,
    graph_figures,
    linf_of,
    markdown,
    measurement_options,
    write_figures,
)
from flowsr_export.graph.axis import Axis, Taps
from flowsr_export.graph.linf import network as linf_graph
from flowsr_export.graph.linf.network import LinfGraph, _grid, _pairs, _ratio, _rows
from flowsr_lp import LinfLP

__all__ = ["ISLANDS", "IslandGraph"]

FLOW = "flow in float32"  # the other way: what the flow costs in half
ISLANDS = ("geometry", "phase", "sum", "resizing")
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


class IslandGraph(LinfGraph):
    """The deployed graph with some of its float32 islands in half precision."""

    def __init__(self, network: LinfLP, dtype: torch.dtype, switched: frozenset[str]) -> None:
        """Restate `network` in `dtype`, with the islands in `switched`; see `FLOW`."""
        super().__init__(network, dtype)
        self.switched = switched
        if FLOW in switched:
            self.flow = torch.float32
            self.encode_maps.float()
            self.decode_maps.float()

    def forward(
        self,
        input: Tensor,
        geometry: Tensor,
        latent: Tensor | None = None,
        features: linf_graph.Features | None = None,
    ) -> Tensor:
        """Upscale a tile; see `LinfGraph`."""
        if "geometry" not in self.switched:
            return super().forward(input, geometry, latent, features)
        others: dict[str, Any] = {
            "neighbours": self._neighbours,
            "half_pixel_taps": self._half_pixel_taps,
        }
        with mock.patch.multiple(linf_graph, **others):
            return super().forward(input, geometry, latent, features)

    def patches(
        self,
        rgb: Tensor,
        row: Axis,
        col: Axis,
        latent: Tensor | None,
        features: linf_graph.Features | None = None,
    ) -> Tensor:
        """Upscale to whole patches; see `LinfGraph`."""
        if "sum" not in self.switched:
            return super().patches(rgb, row, col, latent, features)
        assert self.prior is not None
        x = rgb * 2 - 1
        scale, shift = self.condition(x, row, col)
        z = self.encode(self._residual(x, row, col), scale, shift)
        latent = self.prior(_grid(z, row, col), x, row, col)
        y = _grid(self._decode(_rows(latent), scale, shift), row, col)
        total = (y + self.cut(x, row, col).to(self.dtype)) * 0.5 + 0.5
        return F.pixel_shuffle(total, self.patch).float()

    def _angle(
        self,
        f_row: Tensor,
        f_col: Tensor,
        rows: tuple[Tensor, Tensor, Axis],
        cols: tuple[Tensor, Tensor, Axis],
    ) -> Tensor:
        angle = super()._angle(f_row, f_col, rows, cols)
        if "phase" not in self.switched:
            return angle
        # The same sum with every operand and result rounded.
        (i, r_row, row), (j, r_col, col) = rows, cols
        half = self.dtype
        phase = (self.phase @ torch.stack([_ratio(row), _ratio(col)])).to(half)
        along_rows = f_row.index_select(1, i.reshape(-1))
        along_rows = along_rows * r_row.reshape(-1, 1, 1).to(half) + phase
        along_cols = f_col.index_select(2, j.reshape(-1)) * r_col.reshape(-1, 1).to(half)
        slots = [torch.arange(2 * axis.patches).reshape(-1, 2) for axis in (row, col)]
        first = along_rows.flatten(1, 2).index_select(1, _pairs(slots[0], j, col.lr_count))
        second = along_cols.flatten(1, 2).index_select(1, _pairs(i, slots[1], 2 * col.patches))
        return first + second

    def cut(self, x: Tensor, row: Axis, col: Axis) -> Tensor:
        """Resize and cut a tile; see `LinfGraph`."""
        if "resizing" not in self.switched:
            return super().cut(x, row, col)
        return super().cut(x.to(self.dtype), row, col).float()

    def _positions(self, index: Tensor, ratio: Tensor) -> Tensor:
        """Return the position of an index center on the other grid, in half precision."""
        half = self.dtype
        position: Tensor = (index.to(half) + 0.5) * ratio.to(half) - 0.5
        return position

    def _neighbours(self, axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
        patch = torch.arange(axis.patches) + axis.first_patch()
        position = self._positions(patch, _ratio(axis) / 2 * axis.patch)
        low = position.floor().long()
        index = torch.stack((low, low + 1), dim=-1)
        index = torch.minimum(index.clamp(min=0), torch.as_tensor(axis.low_res) - 1)
        offset = 2 * (position.unsqueeze(-1) - index.to(self.dtype))
        other = offset.flip(-1).abs()
        total = other.sum(-1, keepdim=True)
        weight = torch.where(total == 0, 0.5, other / total.clamp(min=1e-3))
        last = torch.as_tensor(axis.lr_count) - 1
        inside = torch.minimum((index - axis.lr_origin).clamp(min=0), last)
        return inside, offset.float(), weight.float()

    def _half_pixel_taps(
        self, index: Tensor, n_out: Any, n_in: Any, origin: Any, count: int
    ) -> Taps:
        ratio = torch.as_tensor(n_in).float() / torch.as_tensor(n_out).float()
        position = self._positions(index, ratio).clamp(min=0)
        low = position.floor()
        fraction = (position - low).float()
        whole, tile = torch.as_tensor(n_in) - 1, torch.as_tensor(count) - 1
        places = [torch.minimum(low.long() + k, whole) - origin for k in (0, 1)]
        first, second = (torch.minimum(place.clamp(min=0), tile) for place in places)
        inside = (index < n_out).float()
        return Taps((first, second), ((1 - fraction) * inside, fraction * inside), count)


@click.command()
@measurement_options(64)
def main(model: Path | None, prior: Path | None, lr: int, report: Path | None) -> None:
    """Print two tables: PSNR, 99.9th percentile and largest difference in eight-bit steps."""
    network = linf_of(model, prior)
    exact = exact_outputs(network, lr)

    def measured(dtype: torch.dtype, name: str, switched: frozenset[str]) -> list[Figures]:
        graph = IslandGraph(network, dtype, switched).eval()
        return graph_figures(network, graph, exact, NAMES[dtype], name)

    none: frozenset[str] = frozenset()
    precisions = [row for dtype in NAMES for row in measured(dtype, "none", none)]
    islands = {name: frozenset({name}) for name in ISLANDS}
    rows = {"none, as deployed": none, FLOW: frozenset({FLOW}), **islands}
    rows["all of them"] = frozenset(ISLANDS)
    switched = [row for name, on in rows.items() for row in measured(torch.float16, name, on)]
    click.echo(markdown(precisions, "precision"))
    click.echo()
    click.echo(markdown(switched, "also in float16"))
    write_figures([*precisions, *switched], report)


if __name__ == "__main__":
    main()
