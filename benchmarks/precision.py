"""Loss of half precision: the deployed graph with emulated rounding against float32.

The graph runs in PyTorch on the shipped photographs. The second table switches the float32
islands to half precision one at a time, which shows why they are islands, and the flow to
float32, which shows that it need not be one.

Example:
    python -m benchmarks.precision --json precision.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowsr_calibration.panel import psnr
from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import DTYPES, Deployment, Precision
from flowsr_export.graph.axis import Axis, Taps
from flowsr_export.graph.linf import network as linf_graph
from flowsr_export.graph.linf.network import LinfGraph, _grid, _rows
from flowsr_export.inputs.cases import Case
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_export.reports.table import markdown_rows
from flowsr_lp import LinfLP, embedded_checkpoint, load_checkpoint
from flowsr_runtime import output_size

__all__ = [
    "ISLANDS",
    "Figures",
    "IslandGraph",
    "exact_outputs",
    "figures",
    "error_stats",
    "markdown",
    "outputs",
]

FLOW = "flow in float32"  # the other way: what the flow costs in half
PHOTOGRAPHS = 7
EIGHT_BIT = 255
SCALES = ("2", "2.7", "4")
ISLANDS = ("geometry", "phase", "sum", "resizing")


@dataclass(frozen=True)
class Figures:
    """Differences from float32, the largest of the photographs.

    Attributes:
        precision: Type of the heavy layers.
        island: Islands in that type, "none" as deployed.
        scale: Output pixels per input pixel.
        psnr: Lowest PSNR, dB.
        p999_steps: Largest 99.9th percentile of the difference, eight-bit steps.
        max_steps: Largest difference, eight-bit steps, not rounded.
    """

    precision: str
    island: str
    scale: str
    psnr: float
    p999_steps: float
    max_steps: float


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


def exact_outputs(network: LinfLP, lr: int) -> dict[str, NDArray[np.float32]]:
    """Upscale the photographs in float32 at every scale.

    Args:
        network: LINF-LP in evaluation mode, with a learned prior.
        lr: Side of the photographs' crops, low-resolution pixels.

    Returns:
        Outputs (7, 3, H, W) by scale.
    """
    deployment = deployment_of(network)
    run = HalfPrecisionEmulator(deployment, "fp32", None)
    return {scale: outputs(run, deployment, scale, lr) for scale in SCALES}


def figures(
    network: LinfLP,
    precision: Precision,
    islands: frozenset[str],
    named: str,
    exact: dict[str, NDArray[np.float32]],
) -> Iterator[Figures]:
    """Compare with float32 at every scale.

    Args:
        network: LINF-LP in evaluation mode, with a learned prior.
        precision: Type of the heavy layers.
        islands: Islands in that type.
        named: Name of the islands in the table.
        exact: Outputs from `exact_outputs`.

    Yields:
        Differences at each scale.
    """
    deployment = deployment_of(network)
    rounded = HalfPrecisionEmulator(deployment, precision, None)
    rounded._graph = IslandGraph(network, DTYPES[precision], islands).eval()
    for scale in SCALES:
        side = round(exact[scale].shape[-1] / Fraction(scale))
        output = outputs(rounded, deployment, scale, side)
        yield error_stats(precision, named, scale, exact[scale], output)


def error_stats(
    precision: str,
    named: str,
    scale: str,
    exact: NDArray[np.float32],
    output: NDArray[np.float32],
) -> Figures:
    """Compare clamped images.

    Args:
        precision: Type of the heavy layers.
        named: Name of the islands in that type.
        scale: Output pixels per input pixel.
        exact: Outputs in float32, (7, 3, H, W).
        output: Outputs with rounding.
    """
    difference = np.abs(np.clip(exact, 0, 1) - np.clip(output, 0, 1)).astype(np.float64)
    errors = difference.reshape(PHOTOGRAPHS, -1)
    return Figures(
        precision=precision,
        island=named,
        scale=scale,
        psnr=min(psnr(float(np.mean(row**2))) for row in errors),
        p999_steps=float(np.percentile(errors, 99.9, axis=1).max()) * EIGHT_BIT,
        max_steps=float(errors.max()) * EIGHT_BIT,
    )


def markdown(rows: list[Figures], title: str, scales: Sequence[str] = SCALES) -> str:
    """Return a table with one row for each island and one column for each scale."""
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        label = row.precision if title == "precision" else row.island
        values = f"{row.psnr:.1f} dB, {row.p999_steps:.2f}, {row.max_steps:.1f}"
        cells.setdefault((row.precision, row.island), [label]).append(values)
    columns = [title, *(f"×{scale}" for scale in scales)]
    return "\n".join(markdown_rows(columns, cells.values()))


@click.command()
@click.option("--model", type=click.Path(path_type=Path), help="LINF checkpoint.")
@click.option("--prior", type=click.Path(path_type=Path), help="Its latent module.")
@click.option("--lr", type=int, default=64, show_default=True, help="Pixels a side.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write the values.")
def main(model: Path | None, prior: Path | None, lr: int, report: Path | None) -> None:
    """Print two tables: PSNR, 99.9th percentile and largest difference in eight-bit steps."""
    files = embedded_checkpoint() if model is None else (model, prior)
    network = load_checkpoint(*files).network
    assert isinstance(network, LinfLP)
    exact = exact_outputs(network, lr)
    none: frozenset[str] = frozenset()
    precisions = [*figures(network, "fp16", none, "none", exact)]
    precisions += figures(network, "bf16", none, "none", exact)
    islands = {name: frozenset({name}) for name in ISLANDS}
    rows = {"none, as deployed": none, FLOW: frozenset({FLOW}), **islands}
    rows["all of them"] = frozenset(ISLANDS)
    switched: list[Figures] = []
    for name, island in rows.items():
        switched += figures(network, "fp16", island, name, exact)
    click.echo(markdown(precisions, "precision"))
    click.echo()
    click.echo(markdown(switched, "also in float16"))
    if report is not None:
        plain = [asdict(row) for row in (*precisions, *switched)]
        report.write_text(json.dumps(plain, indent=1) + "\n")


def outputs(
    run: HalfPrecisionEmulator, deployment: Deployment, scale: str, lr: int
) -> NDArray[np.float32]:
    """Upscale the photographs, cropped to squares of `lr` pixels, to (7, 3, H, W)."""
    side = output_size(lr, Fraction(scale))
    case = Case((lr, lr), (side, side), PHOTOGRAPHS)
    return run.run(deployment.feeds(case, None))


def _ratio(axis: Axis) -> Tensor:
    lr, out = torch.as_tensor(axis.low_res), torch.as_tensor(axis.output)
    return 2 * lr.float() / out.float()


def _pairs(row: Tensor, col: Tensor, width: int) -> Tensor:
    return (row[:, None, :, None] * width + col[None, :, None, :]).reshape(-1)


if __name__ == "__main__":
    main()
