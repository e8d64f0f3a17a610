"""Cut a picture into the fewest tiles that fit a memory budget, and blend them again."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.errors import BundleError, MemoryBudgetError
from flowsr_runtime.geometry import Extent, Halo, Window
from flowsr_runtime.limits import Limits
from flowsr_runtime.manifest import Memory
from flowsr_runtime.pixels import full_range

__all__ = ["Piece", "Plan", "Tile", "blend", "pieces_of", "plan_tiles"]


@dataclass(frozen=True)
class Piece:
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
    def kept(self) -> slice:
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

    rows: Piece
    columns: Piece

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
    def kept(self) -> tuple[slice, slice]:
        """The pixels that are kept, counted from the beginning of the window."""
        return self.rows.kept, self.columns.kept

    def weights(self) -> NDArray[np.float32]:
        """Return the weights of the kept pixels, (rows, columns, 1)."""
        return self.rows.weights()[:, None, None] * self.columns.weights()[None, :, None]


@dataclass(frozen=True)
class Plan:
    """How one picture is computed.

    Attributes:
        rows: Pieces of the row axis, from the top.
        columns: Pieces of the column axis, from the left.
        peak_bytes: Estimated activation memory of the largest tile.
    """

    rows: tuple[Piece, ...]
    columns: tuple[Piece, ...]
    peak_bytes: int

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def tiles(self) -> Iterator[Tile]:
        """Iterate over the tiles, row by row."""
        return (Tile(row, column) for row in self.rows for column in self.columns)


@dataclass(frozen=True)
class _Cut:
    """One axis cut into pieces, and what decides between such cuts."""

    pieces: tuple[Piece, ...]
    pixels: int  # LR pixels of the largest piece
    patches: int  # of the largest piece
    total_pixels: int
    total_patches: int
    takers: frozenset[int]  # which profiles take each piece; Limits.takers


def plan_tiles(
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    halo: Halo,
    memory: Memory,
    budget: int,
    fade: int,
    whole_only: bool = False,
    limits: Limits | None = None,
) -> Plan:
    """Choose the cheapest tiling whose largest tile fits the budget.

    Cheapest is the least total of what the tiles compute, halos included, which favours few,
    large and nearly square tiles.

    Args:
        source: LR size (h, w).
        target: Output size (H, W).
        halo: What surrounds every tile.
        memory: Peak activation memory of one run.
        budget: Bytes that one run may take.
        fade: Output pixels over which neighbouring tiles are blended, at most the alignment.
        whole_only: Whether the graph computes whole pictures alone.
        limits: Sizes that the session takes, None for every size.

    Returns:
        The plan; one tile if the whole picture fits.

    Raises:
        MemoryBudgetError: If even the smallest tile does not fit.
        BundleError: If no tiles that fit have sizes that the session takes.
    """
    axes = list(zip(source, target, strict=True))
    whole = [_cut(_whole(*axes[i]), i, halo.patch, limits) for i in (0, 1)]
    needed = _peak(whole[0], whole[1], memory)
    if needed <= budget and _is_taken(*whole):
        return Plan(whole[0].pieces, whole[1].pieces, needed)
    if whole_only and needed <= budget:
        raise _untaken(source, target, budget, limits)
    if whole_only:
        raise MemoryBudgetError(
            "the model computes whole pictures only; the memory budget must be at least "
            f"{needed} bytes for {source[0]}x{source[1]}, got {budget}"
        )
    rows, columns = (_cuts(*axes[i], i, halo, fade, limits) for i in (0, 1))
    fitting = _fitting(rows, columns, memory, budget)
    if not fitting:
        least = min(_peak(row, column, memory) for row in rows for column in columns)
        if least <= budget:
            raise _untaken(source, target, budget, limits)
        raise MemoryBudgetError(
            f"memory budget must be at least {least} bytes for {source[0]}x{source[1]} to "
            f"{target[0]}x{target[1]}, got {budget}"
        )
    row, column = min(fitting, key=lambda pair: _work(pair[0], pair[1], memory))
    return Plan(row.pieces, column.pieces, _peak(row, column, memory))


def pieces_of(
    source: int, target: int, *, count: int, halo: Halo, fade: int
) -> tuple[Piece, ...]:
    """Cut one axis into pieces of nearly equal size.

    Args:
        source: LR pixels of the whole axis.
        target: Output pixels of the whole axis.
        count: Number of pieces, at most the number of aligned beginnings.
        halo: What surrounds every piece.
        fade: Output pixels that neighbouring pieces share, at most the alignment.

    Returns:
        The pieces, from the beginning; their weights sum to one at every pixel.
    """
    units = -(-target // halo.align)
    begins = [halo.align * (index * units // count) for index in range(count)]
    pieces = []
    for begin, after in zip(begins, [*begins[1:], target], strict=True):
        end = min(target, after + fade)
        pieces.append(
            Piece(
                extent=Extent.around(begin, end, source, target, halo),
                begin=begin,
                end=end,
                fade_in=min(fade, target - begin) if begin else 0,
                fade_out=end - after,
            )
        )
    return tuple(pieces)


def blend(
    plan: Plan, compute: Callable[[Tile], NDArray[Any]]
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Compute the tiles and join them, holding one row of tiles at a time.

    Args:
        plan: How the picture is cut.
        compute: Gives the kept pixels of a tile, (rows, columns, 3) float32 or uint8.

    Yields:
        Output rows as a slice, and their pixels, (rows, W, 3), which the caller may change:
        float32, or uint8 if the whole picture is one tile of eight bits.
    """
    if len(plan) == 1:
        yield slice(0, plan.rows[0].end), compute(Tile(plan.rows[0], plan.columns[0]))
        return
    shared = np.zeros((0, plan.columns[-1].end, 3), dtype=np.float32)
    for row in plan.rows:
        band = np.zeros((row.end - row.begin, *shared.shape[1:]), dtype=np.float32)
        band[: len(shared)] = shared
        for column in plan.columns:
            tile = Tile(row, column)
            band[:, column.begin : column.end] += full_range(compute(tile)) * tile.weights()
        finished = len(band) - row.fade_out
        shared = band[finished:].copy()
        yield slice(row.begin, row.begin + finished), band[:finished]


def _ramp(length: int) -> NDArray[np.float32]:
    centres = np.arange(length, dtype=np.float64) + 0.5
    return (centres / max(1, length)).astype(np.float32)


def _whole(source: int, target: int) -> tuple[Piece, ...]:
    return (Piece(Extent.whole(source, target), 0, target, 0, 0),)


def _cuts(
    source: int, target: int, axis: int, halo: Halo, fade: int, limits: Limits | None
) -> list[_Cut]:
    """Return one cut for every largest size that a piece can have."""
    units = -(-target // halo.align)
    counts = {-(-units // size) for size in range(1, units + 1)}
    pieces = [
        pieces_of(source, target, count=count, halo=halo, fade=fade)
        for count in sorted(counts - {1})
    ]
    whole = _whole(source, target)
    return [_cut(each, axis, halo.patch, limits) for each in (whole, *pieces)]


def _cut(pieces: tuple[Piece, ...], axis: int, patch: int, limits: Limits | None) -> _Cut:
    extents = [piece.extent for piece in pieces]
    pixels = [extent.lr_size for extent in extents]
    patches = [math.ceil(extent.out_size / patch) for extent in extents]
    takers = frozenset({1}) if limits is None else limits.takers(axis, extents)
    return _Cut(pieces, max(pixels), max(patches), sum(pixels), sum(patches), takers)


def _fitting(
    rows: list[_Cut], columns: list[_Cut], memory: Memory, budget: int
) -> list[tuple[_Cut, _Cut]]:
    """Return for each cut of the rows the best one of the columns, where there is one."""
    pairs = []
    for row in rows:
        # Work grows with the number of pieces: the first cut that fits is the best.
        fits = (cut for cut in columns if _peak(row, cut, memory) <= budget)
        column = next((cut for cut in fits if _is_taken(row, cut)), None)
        if column is not None:
            pairs.append((row, column))
    return pairs


def _is_taken(row: _Cut, column: _Cut) -> bool:
    """Return whether the session takes every tile of two cuts."""
    return all(above & beside for above in row.takers for beside in column.takers)


def _untaken(
    source: tuple[int, int], target: tuple[int, int], budget: int, limits: Limits | None
) -> BundleError:
    assert limits is not None, "without limits every size is taken"
    return BundleError(
        f"no engine takes {source[0]}x{source[1]} to {target[0]}x{target[1]}, whole or in "
        f"tiles; build one that does: {limits.remedy(source, target, budget)}"
    )


def _peak(row: _Cut, column: _Cut, memory: Memory) -> int:
    return memory.estimate(row.pixels * column.pixels, row.patches * column.patches)


def _work(row: _Cut, column: _Cut, memory: Memory) -> float:
    return (
        row.total_pixels * column.total_pixels * memory.bytes_per_pixel
        + row.total_patches * column.total_patches * memory.bytes_per_patch
    )
