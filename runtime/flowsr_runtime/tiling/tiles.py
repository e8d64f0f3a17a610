"""The tiles of a picture: how they lie and overlap, and how they are blended again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.geometry import Extent, Halo, Window, size_text
from flowsr_runtime.pictures.pixels import full_range

__all__ = ["TileSpan", "Plan", "Tile", "blend", "pieces_of"]


@dataclass(frozen=True)
class TileSpan:
    """One axis of a tile: the output pixels that are kept, and how they fade.

    Attributes:
        extent: What is computed.
        begin: First output pixel that is kept, a multiple of the alignment.
        end: End of the output pixels that are kept.
        fade_in: Pixels at the beginning shared with the piece before.
        fade_out: Pixels at the end shared with the piece after.
    """

    extent: Extent
    begin: int
    end: int
    fade_in: int
    fade_out: int

    @property
    def core(self) -> slice:
        """The pixels that are kept, counted from the beginning of the window."""
        return slice(self.begin - self.extent.out_begin, self.end - self.extent.out_begin)

    def weights(self) -> NDArray[np.float32]:
        """Return linear ramps; those of two pieces sum to one wherever they meet.

        Returns:
            Weights of the kept pixels, (end - begin,) in (0, 1].
        """
        weights = np.ones(self.end - self.begin, dtype=np.float32)
        weights[: self.fade_in] = _ramp(self.fade_in)
        weights[len(weights) - self.fade_out :] = 1 - _ramp(self.fade_out)
        return weights


@dataclass(frozen=True)
class Tile:
    """One run of the graph and the part of its output that is kept.

    Attributes:
        rows: Its rows.
        columns: Its columns.
    """

    rows: TileSpan
    columns: TileSpan

    @property
    def window(self) -> Window:
        """What the graph computes."""
        return Window(self.rows.extent, self.columns.extent)

    @property
    def source(self) -> tuple[slice, slice]:
        """Where the tile lies in the LR picture."""
        rows, columns = self.rows.extent, self.columns.extent
        return slice(rows.lr_begin, rows.lr_end), slice(columns.lr_begin, columns.lr_end)

    @property
    def core(self) -> tuple[slice, slice]:
        """The pixels that are kept, counted from the beginning of the window."""
        return self.rows.core, self.columns.core

    def weights(self) -> NDArray[np.float32]:
        """Return the weights of the kept pixels, (rows, columns, 1)."""
        return self.rows.weights()[:, None, None] * self.columns.weights()[None, :, None]


@dataclass(frozen=True)
class Plan:
    """How one picture is computed.

    Attributes:
        rows: Pieces of the row axis, from the top.
        columns: Pieces of the column axis, from the left.
        run_bytes: Estimated activation memory of the largest tile.
        peak_bytes: The same with all that the process holds beside it; on a GPU the same.
    """

    rows: tuple[TileSpan, ...]
    columns: tuple[TileSpan, ...]
    run_bytes: int
    peak_bytes: int

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def largest(self) -> str:
        """Output pixels of the largest tile without its halo, as in 512x384."""
        rows, columns = (
            max(piece.end - piece.begin for piece in axis) for axis in (self.rows, self.columns)
        )
        return size_text((rows, columns))

    def tiles(self) -> Iterator[Tile]:
        """Iterate over the tiles, row by row."""
        return (Tile(row, column) for row in self.rows for column in self.columns)


def pieces_of(
    source: int, target: int, *, count: int, halo: Halo, fade: int, begin: int = 0
) -> tuple[TileSpan, ...]:
    """Cut one axis, or what is left of it, into pieces of nearly equal size.

    Args:
        source: LR pixels of the whole axis.
        target: Output pixels of the whole axis.
        count: Number of pieces, at most the number of aligned beginnings.
        halo: What surrounds every piece.
        fade: Output pixels that neighboring pieces share, at most the alignment.
        begin: First output pixel, a multiple of the alignment; pieces before it fade out.

    Returns:
        The pieces, from the beginning; their weights sum to one at every pixel, with those of
        the piece before `begin`.
    """
    units = -(-(target - begin) // halo.align)
    begins = [begin + halo.align * (index * units // count) for index in range(count)]
    pieces = []
    for first, after in zip(begins, [*begins[1:], target], strict=True):
        end = min(target, after + fade)
        pieces.append(
            TileSpan(
                extent=Extent.around(first, end, source, target, halo),
                begin=first,
                end=end,
                fade_in=min(fade, target - first) if first else 0,
                fade_out=end - after,
            )
        )
    return tuple(pieces)


def blend(
    plan: Plan,
    compute: Callable[[Tile], NDArray[Any]],
    smaller: Callable[[Plan, int, MemoryError], Plan],
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Compute the tiles and join them, holding one row of tiles at a time.

    Args:
        plan: How the picture is cut.
        compute: Gives the kept pixels of a tile, (rows, columns, 3) float32 or uint8.
        smaller: Called with the plan, the first output row that is not finished and the error
            when memory runs out: gives smaller tiles from that row on, or raises.

    Yields:
        Output rows as a slice, and their pixels, (rows, W, 3), which the caller may change:
        float32, or uint8 if the rows are one tile of eight bits that is not blended.
    """
    shared = np.zeros((0, plan.columns[-1].end, 3), dtype=np.float32)
    rows = list(plan.rows)
    while rows:
        row = rows.pop(0)
        try:
            band = _band(row, plan.columns, shared, compute)
        except MemoryError as error:
            plan = smaller(plan, row.begin, error)
            rows = list(plan.rows)
            continue
        finished = len(band) - row.fade_out
        shared = full_range(band[finished:].copy())
        yield slice(row.begin, row.begin + finished), band[:finished]


def _band(
    row: TileSpan,
    columns: tuple[TileSpan, ...],
    shared: NDArray[np.float32],
    compute: Callable[[Tile], NDArray[Any]],
) -> NDArray[Any]:
    """Compute a row of tiles and add what it shares with the row above."""
    if len(columns) == 1 and not (row.fade_in or row.fade_out):
        return compute(Tile(row, columns[0]))
    band = np.zeros((row.end - row.begin, *shared.shape[1:]), dtype=np.float32)
    band[: len(shared)] = shared
    for column in columns:
        tile = Tile(row, column)
        band[:, column.begin : column.end] += full_range(compute(tile)) * tile.weights()
    return band


def _ramp(length: int) -> NDArray[np.float32]:
    centers = np.arange(length, dtype=np.float64) + 0.5
    return (centers / max(1, length)).astype(np.float32)
