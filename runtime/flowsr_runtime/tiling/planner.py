"""Plan the cheapest tiles that fit in memory and that the session takes."""

import math
from dataclasses import dataclass, replace
from typing import Final

from flowsr_runtime.bundle.manifest import Memory
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.errors import BundleError, MemoryBudgetError
from flowsr_runtime.geometry import Extent, Halo, size_text
from flowsr_runtime.tiling.memory import NO_OVERHEAD, ResidentMemory
from flowsr_runtime.tiling.tiles import Plan, TileSpan, equal_pieces, pieces_of

__all__ = ["TilePlanner"]


MOST_PIECES: Final = 4096
"""Pieces of one axis; more would take seconds to compare, and no image needs them."""


@dataclass(frozen=True)
class AxisSplit:
    """One axis split into pieces, and the figures that such splits are compared by."""

    pieces: tuple[TileSpan, ...]
    core: int  # output pixels of the largest piece, without its halo
    pixels: int  # LR pixels of the largest piece
    patches: int  # of the largest piece
    total_pixels: int
    total_patches: int
    matching_profiles: frozenset[int]


@dataclass(frozen=True)
class TilePlanner:
    """Chooses the tiles of one image that fit in memory and compute the least in all.

    The cost of a plan includes the halos, which favors few, large and nearly square tiles.

    Attributes:
        source: LR size (h, w).
        target: Output size (H, W).
        halo: Halo of every tile.
        memory: Peak activation memory of one run.
        fade: Output pixels over which neighboring tiles are blended, at most the alignment.
        whole_only: Whether the graph only computes whole images.
        limits: Sizes that the session takes, None for all sizes.
        resident: Memory held besides the runs, and whether budgets include it.
        equal: Give all tiles of an image one size where such tiles fit; for GPUs, which
            prepare kernels, CUDA graphs and memory for each size.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    halo: Halo
    memory: Memory
    fade: int
    whole_only: bool = False
    limits: ProfileLimits | None = None
    resident: ResidentMemory = NO_OVERHEAD
    equal: bool = False

    def plan(self, budget: int, top: int = 0) -> Plan:
        """Choose the tiles.

        Args:
            budget: Bytes that one run may take; with the resident memory if budgets include it.
            top: First output row to compute, where a piece of an earlier plan begins.

        Returns:
            The plan: one tile if the whole image is computed and fits.

        Raises:
            MemoryBudgetError: If even the smallest tile does not fit.
            BundleError: If the session takes none of the tiles that fit.
        """
        if self.whole_only:
            return self._whole_plan(budget)
        whole = [self._split(i, _whole(*self._axis(i))) for i in (0, 1)]
        if top == 0 and self._cost(*whole) <= budget and _is_covered(*whole):
            return self._plan_of(*whole)
        rows, columns = self._splits(0, top), self._splits(1, 0)
        fitting = self._fitting(rows, columns, budget)
        if not fitting and self.equal:
            return replace(self, equal=False).plan(budget, top)
        if not fitting:
            least = self._least(rows, columns)
            if least <= budget:
                raise self._no_profile(budget)
            sizes = f"{size_text(self.source)} to {size_text(self.target)}"
            message = f"{self._name} must be at least {least} bytes for {sizes}, got {budget}"
            raise MemoryBudgetError(message, option=self._name)
        return self._plan_of(*min(fitting, key=lambda pair: self._work(*pair)))

    def smaller(self, plan: Plan, top: int) -> Plan:
        """Choose tiles of about half the memory for the rest of an image.

        Args:
            plan: Plan that ran out of memory.
            top: First output row that is not finished, where a piece of `plan` begins.

        Returns:
            A plan with a lower peak.

        Raises:
            MemoryBudgetError: If there are no smaller tiles.
            BundleError: If the session takes none of them.
        """
        before = plan.peak_bytes if self.resident.counts else plan.run_bytes
        least = before
        if not self.whole_only:
            least = self._least(self._splits(0, top), self._splits(1, 0))
        if least >= before and self.equal:
            return replace(self, equal=False).smaller(plan, top)
        if least >= before:
            raise MemoryBudgetError(f"there are no tiles smaller than {plan.largest}")
        return self.plan(max(before - plan.run_bytes // 2, least), top)

    @property
    def _name(self) -> str:
        """Name of the argument that the budget comes from."""
        return "max_memory" if self.resident.counts else "memory_budget"

    def _whole_plan(self, budget: int) -> Plan:
        rows, columns = (self._split(i, _whole(*self._axis(i))) for i in (0, 1))
        needed = self._cost(rows, columns)
        if needed > budget:
            raise MemoryBudgetError(
                f"{self._name} must be at least {needed} bytes for {size_text(self.source)}, "
                f"got {budget}; this model computes whole pictures only",
                option=self._name,
            )
        if not _is_covered(rows, columns):
            raise self._no_profile(budget)
        return self._plan_of(rows, columns)

    def _axis(self, axis: int) -> tuple[int, int]:
        return self.source[axis], self.target[axis]

    def _splits(self, axis: int, begin: int) -> list[AxisSplit]:
        """Return one split for every largest size that a piece can have, the largest first."""
        source, target = self._axis(axis)
        units = -(-(target - begin) // self.halo.align)
        counts = sorted(
            {-(-units // size) for size in range(-(-units // MOST_PIECES), units + 1)}
        )
        candidates = [
            pieces_of(source, target, count=n, halo=self.halo, fade=self.fade, begin=begin)
            for n in counts
        ]
        if begin == 0:
            candidates[0] = _whole(source, target)
        return [self._split(axis, pieces) for pieces in candidates]

    def _split(self, axis: int, pieces: tuple[TileSpan, ...]) -> AxisSplit:
        if self.equal:
            pieces = equal_pieces(pieces, self.halo)
        extents = [piece.extent for piece in pieces]
        pixels = [extent.lr_size for extent in extents]
        patches = [math.ceil(extent.out_size / self.halo.patch) for extent in extents]
        profiles = frozenset({1})
        if self.limits is not None:
            profiles = self.limits.matching_profiles(axis, extents)
        core = max(piece.end - piece.begin for piece in pieces)
        totals = sum(pixels), sum(patches)
        return AxisSplit(pieces, core, max(pixels), max(patches), *totals, profiles)

    def _fitting(
        self, rows: list[AxisSplit], columns: list[AxisSplit], budget: int
    ) -> list[tuple[AxisSplit, AxisSplit]]:
        """Return each split of the rows with the best split of the columns, if any fits."""
        pairs = []
        for row in rows:
            # Work grows with the number of pieces: the first split that fits is the best.
            fits = (split for split in columns if self._cost(row, split) <= budget)
            column = next((split for split in fits if _is_covered(row, split)), None)
            if column is not None:
                pairs.append((row, column))
        return pairs

    def _least(self, rows: list[AxisSplit], columns: list[AxisSplit]) -> int:
        return min(self._cost(row, column) for row in rows for column in columns)

    def _run(self, row: AxisSplit, column: AxisSplit) -> int:
        return self.memory.estimate(row.pixels * column.pixels, row.patches * column.patches)

    def _peak(self, row: AxisSplit, column: AxisSplit) -> int:
        return self.resident.held + row.core * self.resident.row_bytes + self._run(row, column)

    def _cost(self, row: AxisSplit, column: AxisSplit) -> int:
        """Return the bytes that are compared with a budget."""
        return self._peak(row, column) if self.resident.counts else self._run(row, column)

    def _work(self, row: AxisSplit, column: AxisSplit) -> float:
        return (
            row.total_pixels * column.total_pixels * self.memory.bytes_per_pixel
            + row.total_patches * column.total_patches * self.memory.bytes_per_patch
        )

    def _plan_of(self, row: AxisSplit, column: AxisSplit) -> Plan:
        run, peak = self._run(row, column), self._peak(row, column)
        return Plan(row.pieces, column.pieces, run, peak)

    def _no_profile(self, budget: int) -> BundleError:
        assert self.limits is not None, "without limits every size is taken"
        return self.limits.missing(self.source, self.target, budget)


def _whole(source: int, target: int) -> tuple[TileSpan, ...]:
    return (TileSpan(Extent.whole(source, target), 0, target, 0, 0),)


def _is_covered(row: AxisSplit, column: AxisSplit) -> bool:
    """Return whether the session takes every tile of two cuts."""
    return all(a & b for a in row.matching_profiles for b in column.matching_profiles)
