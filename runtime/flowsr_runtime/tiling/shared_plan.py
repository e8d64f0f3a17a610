"""Plan tiles of several outputs of one image that read the same pixels of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flowsr_runtime.geometry import Extent
from flowsr_runtime.tiling.planner import MOST_PIECES, TilePlanner
from flowsr_runtime.tiling.tiles import Plan, TileSpan, pieces_of

__all__ = ["shared_plans"]


@dataclass(frozen=True)
class _Cut:
    """One axis of every output in as many pieces; the pieces of a place read the same pixels.

    Attributes:
        pieces: Pieces of each output.
        pixels: LR pixels of the largest piece.
        total_pixels: LR pixels of all pieces.
        patches: Patches of the largest piece of each output.
        total_patches: Patches of all pieces of each output.
    """

    pieces: tuple[tuple[TileSpan, ...], ...]
    pixels: int
    total_pixels: int
    patches: tuple[int, ...]
    total_patches: tuple[int, ...]


def shared_plans(
    planners: Sequence[TilePlanner], budget: int, work: tuple[float, float]
) -> list[Plan] | None:
    """Choose the tiles of several outputs of one image.

    Args:
        planners: Planner of each output; all have the same image and halo.
        budget: Bytes that one run may take; each output's own tiles fit in it.
        work: Work of an LR pixel, which counts once, and of a patch.

    Returns:
        A plan for each, all with as many rows and columns of tiles, and the same LR pixels in
        the tiles of a place; None if no such tiles fit, or separate plans compute less.
    """
    rows, columns = (_cuts(planners, axis) for axis in (0, 1))
    fitting: list[tuple[_Cut, _Cut]] = []
    for row in rows:
        # Work grows with the number of pieces: the first cut that fits is the best.
        fits = (one for one in columns if max(_runs(planners, row, one)) <= budget)
        column = next(fits, None)
        if column is not None:
            fitting.append((row, column))
    if not fitting:
        return None
    row, column = min(fitting, key=lambda pair: _work(pair[0], pair[1], work))
    if _work(row, column, work) >= sum(_own_work(one, budget, work) for one in planners):
        return None
    runs = _runs(planners, row, column)
    return [Plan(row.pieces[i], column.pieces[i], run, run) for i, run in enumerate(runs)]


def _cuts(planners: Sequence[TilePlanner], axis: int) -> list[_Cut]:
    """Return one cut for every largest size that a piece can have, the largest first."""
    units = min(-(-one.target[axis] // one.halo.align) for one in planners)
    sizes = range(-(-units // MOST_PIECES), units + 1)
    return [_cut(planners, axis, count) for count in sorted({-(-units // n) for n in sizes})]


def _cut(planners: Sequence[TilePlanner], axis: int, count: int) -> _Cut:
    every = []
    for one in planners:
        source, target = one.source[axis], one.target[axis]
        pieces = pieces_of(source, target, count=count, halo=one.halo, fade=one.fade)
        if count == 1:
            pieces = (replace(pieces[0], extent=Extent.whole(source, target)),)
        every.append(pieces)
    ends = [
        (min(p.extent.lr_begin for p in place), max(p.extent.lr_end for p in place))
        for place in zip(*every, strict=True)
    ]
    grown = tuple(
        tuple(
            replace(p, extent=replace(p.extent, lr_begin=begin, lr_end=end))
            for p, (begin, end) in zip(pieces, ends, strict=True)
        )
        for pieces in every
    )
    sides = [end - begin for begin, end in ends]
    patches = [
        [math.ceil(p.extent.out_size / one.halo.patch) for p in pieces]
        for one, pieces in zip(planners, grown, strict=True)
    ]
    most, total = tuple(map(max, patches)), tuple(map(sum, patches))
    return _Cut(grown, max(sides), sum(sides), most, total)


def _runs(planners: Sequence[TilePlanner], row: _Cut, column: _Cut) -> list[int]:
    """Return the bytes of the largest run of each output."""
    pixels = row.pixels * column.pixels
    return [
        one.memory.estimate(pixels, row.patches[i] * column.patches[i])
        for i, one in enumerate(planners)
    ]


def _work(row: _Cut, column: _Cut, work: tuple[float, float]) -> float:
    """Return the work of shared tiles."""
    patches = sum(a * b for a, b in zip(row.total_patches, column.total_patches, strict=True))
    return row.total_pixels * column.total_pixels * work[0] + patches * work[1]


def _own_work(planner: TilePlanner, budget: int, work: tuple[float, float]) -> float:
    """Return the work of an output's own tiles."""
    plan, pixels, patches = planner.plan(budget), 1, 1
    for pieces in (plan.rows, plan.columns):
        pixels *= sum(piece.extent.lr_size for piece in pieces)
        sizes = (piece.extent.out_size for piece in pieces)
        patches *= sum(math.ceil(size / planner.halo.patch) for size in sizes)
    return pixels * work[0] + patches * work[1]
