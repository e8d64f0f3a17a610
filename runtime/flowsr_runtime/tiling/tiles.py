"""Split an image into overlapping tiles, and blend them."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.geometry import Extent, Halo, Window, size_text
from flowsr_runtime.pictures.pixels import full_range

__all__ = ["Plan", "Tile", "TileSpan", "blend", "blend_by_tiles", "equal_pieces", "pieces_of"]


@dataclass(frozen=True)
class TileSpan:
    """One axis of a tile: its core output pixels, and how they fade.

    Attributes:
        extent: Window of the graph.
        begin: First output pixel of the core, a multiple of the alignment.
        end: End of the output pixels of the core.
        fade_in: Pixels at the beginning shared with the previous piece.
        fade_out: Pixels at the end shared with the next piece.
    """

    extent: Extent
    begin: int
    end: int
    fade_in: int
    fade_out: int

    @property
    def core(self) -> slice:
        """Pixels without the halo, relative to the window."""
        return slice(self.begin - self.extent.out_begin, self.end - self.extent.out_begin)

    def weights(self) -> NDArray[np.float32]:
        """Return linear ramps; those of two neighbors sum to one where they overlap.

        Returns:
            Weights of the core pixels, (end - begin,) in (0, 1].
        """
        weights = np.ones(self.end - self.begin, dtype=np.float32)
        weights[: self.fade_in] = _ramp(self.fade_in)
        weights[len(weights) - self.fade_out :] = 1 - _ramp(self.fade_out)
        return weights


@dataclass(frozen=True)
class Tile:
    """One run of the graph, and the part of its output without the halo.

    Attributes:
        rows: Rows of the tile.
        columns: Columns of the tile.
    """

    rows: TileSpan
    columns: TileSpan

    @property
    def window(self) -> Window:
        """Window of the graph."""
        return Window(self.rows.extent, self.columns.extent)

    @property
    def source(self) -> tuple[slice, slice]:
        """Position of the tile in the LR image."""
        rows, columns = self.rows.extent, self.columns.extent
        return slice(rows.lr_begin, rows.lr_end), slice(columns.lr_begin, columns.lr_end)

    @property
    def core(self) -> tuple[slice, slice]:
        """Pixels without the halo, relative to the window."""
        return self.rows.core, self.columns.core

    def weights(self) -> NDArray[np.float32]:
        """Return the weights of the core pixels, (rows, columns, 1)."""
        return self.rows.weights()[:, None, None] * self.columns.weights()[None, :, None]


@dataclass(frozen=True)
class Plan:
    """The tiles of one image.

    Attributes:
        rows: Pieces of the row axis, from the top.
        columns: Pieces of the column axis, from the left.
        run_bytes: Estimated activation memory of the largest tile.
        peak_bytes: `run_bytes` plus the resident memory of the process; on a GPU `run_bytes`.
    """

    rows: tuple[TileSpan, ...]
    columns: tuple[TileSpan, ...]
    run_bytes: int
    peak_bytes: int

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def largest(self) -> str:
        """Size of the largest tile without its halo, in output pixels, as in "512x384"."""
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
    """Split one axis, or the rest of it, into pieces of nearly equal size.

    Args:
        source: LR pixels of the whole axis.
        target: Output pixels of the whole axis.
        count: Number of pieces, at most the number of aligned positions.
        halo: Halo of every piece.
        fade: Output pixels that neighboring pieces share, at most the alignment.
        begin: First output pixel, a multiple of the alignment; pieces before it fade out.

    Returns:
        The pieces in order; together with the piece before `begin`, their weights sum to one
        at every pixel.
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


def equal_pieces(pieces: tuple[TileSpan, ...], halo: Halo) -> tuple[TileSpan, ...]:
    """Grow the windows of an axis to one size, so that a GPU prepares its kernels once.

    Args:
        pieces: Pieces of one axis, the last one to its end; they keep their cores.
        halo: Halo that the pieces have at least.

    Returns:
        Pieces of the same cores, all with as many LR pixels and with as many output pixels, or
        `pieces` where windows of a graph with a ratio cannot end at the end of the axis.
    """
    source, target = pieces[0].extent.source, pieces[0].extent.target
    if halo.ratio is not None and target % halo.align:
        return pieces
    # The last window ends with the axis and begins at a multiple of the alignment.
    out = _up_to_end(max(piece.extent.out_size for piece in pieces), target, halo.align)
    windows = [min(piece.extent.out_begin, target - out) for piece in pieces]
    if halo.ratio is not None:
        extents = [
            replace(
                piece.extent,
                **{"lr_begin": begin // halo.ratio, "lr_end": (begin + out) // halo.ratio},
                **{"out_begin": begin, "out_end": begin + out},
            )
            for piece, begin in zip(pieces, windows, strict=True)
        ]
        return tuple(map(_with_extent, pieces, extents))
    grown = [Extent.window(begin, begin + out, source, target, halo) for begin in windows]
    low = _up_to_end(max(extent.lr_size for extent in grown), source, halo.lr_align)
    begins = [min(extent.lr_begin, source - low) for extent in grown]
    extents = [
        replace(extent, lr_begin=begin, lr_end=begin + low)
        for extent, begin in zip(grown, begins, strict=True)
    ]
    return tuple(map(_with_extent, pieces, extents))


def blend(
    plan: Plan,
    compute: Callable[[Tile], NDArray[Any]],
    smaller: Callable[[Plan, int, MemoryError], Plan],
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Compute the tiles and join them as `blend_by_tiles`, and yield the rows alone."""
    steps = blend_by_tiles(plan, compute, smaller)
    return (step for step in steps if step is not None)


def blend_by_tiles(
    plan: Plan,
    compute: Callable[[Tile], NDArray[Any]],
    smaller: Callable[[Plan, int, MemoryError], Plan],
) -> Iterator[tuple[slice, NDArray[Any]] | None]:
    """Compute the tiles and join them, with one row of tiles in memory at a time.

    Args:
        plan: Tiles of the image.
        compute: Returns the core pixels of a tile, (rows, columns, 3) float32 or uint8.
        smaller: Called when memory runs out, with the plan, the first unfinished output row
            and the error; returns smaller tiles from that row on, or raises.

    Yields:
        None after each tile, and after a row of tiles a slice of output rows, and their pixels,
        (rows, W, 3), which the caller may change: float32, or uint8 if the rows are one uint8
        tile that is not blended.
    """
    width = plan.columns[-1].end
    shared = np.zeros((0, width, 3), dtype=np.float32)
    planes = np.empty((3, 0, width), dtype=np.float32)
    rows = list(plan.rows)
    while rows:
        row = rows.pop(0)
        try:
            if planes.shape[1] < row.end - row.begin:
                planes = np.empty((3, row.end - row.begin, width), dtype=np.float32)
            band = yield from _band(row, plan.columns, shared, planes, compute)
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
    planes: NDArray[np.float32],
    compute: Callable[[Tile], NDArray[Any]],
) -> Generator[None, None, NDArray[Any]]:
    """Compute a row of tiles and add the pixels it shares with the row above; stop at each.

    `planes`, (3, rows, W), is the memory of every band: color by color, as the graph's output
    is, so that rows are copied whole.
    """
    if len(columns) == 1 and not (row.fade_in or row.fade_out):
        core = compute(Tile(row, columns[0]))
        yield
        return core
    band: NDArray[np.float32] = planes[:, : row.end - row.begin].transpose(1, 2, 0)
    band[: len(shared)] = shared
    for column in columns:
        _add(band, Tile(row, column), compute)
        yield
    return band


def _add(
    band: NDArray[np.float32], tile: Tile, compute: Callable[[Tile], NDArray[Any]]
) -> None:
    """Add a tile to a band that holds the tiles on its left and the rows shared with above.

    Only pixels that neighbors share are weighed; the others are copied.
    """
    row, column = tile.rows, tile.columns
    values, weights = full_range(compute(tile)), tile.weights()
    into = band[:, column.begin : column.end]
    top, bottom = row.fade_in, len(values) - row.fade_out
    left, right = column.fade_in, values.shape[1] - column.fade_out
    into[:top] += values[:top] * weights[:top]
    into[top:, :left] += values[top:, :left] * weights[top:, :left]
    into[top:bottom, left:right] = values[top:bottom, left:right]
    into[top:bottom, right:] = values[top:bottom, right:] * weights[top:bottom, right:]
    into[bottom:, left:] = values[bottom:, left:] * weights[bottom:, left:]


def _up_to_end(size: int, whole: int, align: int) -> int:
    """Return the least size from `size` on that leaves a multiple of `align` before it."""
    return whole - max(0, whole - size) // align * align


def _with_extent(piece: TileSpan, extent: Extent) -> TileSpan:
    return replace(piece, extent=extent)


def _ramp(length: int) -> NDArray[np.float32]:
    centers = np.arange(length, dtype=np.float64) + 0.5
    return (centers / max(1, length)).astype(np.float32)
