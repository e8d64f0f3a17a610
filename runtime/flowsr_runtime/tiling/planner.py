"""Cut a picture into the cheapest tiles that fit in memory and that the session takes."""

import math
from dataclasses import dataclass

from flowsr_runtime.bundle.manifest import Memory
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.errors import BundleError, MemoryBudgetError
from flowsr_runtime.geometry import Extent, Halo, size_text
from flowsr_runtime.tiling.memory import NO_OVERHEAD, ResidentMemory
from flowsr_runtime.tiling.tiles import Plan, TileSpan, pieces_of

__all__ = ["TilePlanner"]


@dataclass(frozen=True)
class AxisSplit:
    """One axis cut into pieces, and what decides between such cuts."""

    pieces: tuple[TileSpan, ...]
    kept: int  # output pixels of the largest piece without its halo
    pixels: int  # LR pixels of the largest piece
    patches: int  # of the largest piece
    total_pixels: int
    total_patches: int
    takers: frozenset[int]  # which profiles take each piece; ProfileLimits.takers


@dataclass(frozen=True)
class TilePlanner:
    """Chooses the cheapest tiles of one picture that fit in memory.

    Cheapest is the least total of what the tiles compute, halos included, which favours few,
    large and nearly square tiles.

    Attributes:
        source: LR size (h, w).
        target: Output size (H, W).
        halo: What surrounds every tile.
        memory: Peak activation memory of one run.
        fade: Output pixels over which neighbouring tiles are blended, at most the alignment.
        whole_only: Whether the graph computes whole pictures alone.
        limits: Sizes that the session takes, None for every size.
        beside: What is held beside the runs, and whether budgets count it.
    """

    source: tuple[int, int]
    target: tuple[int, int]
    halo: Halo
    memory: Memory
    fade: int
    whole_only: bool = False
    limits: ProfileLimits | None = None
    beside: ResidentMemory = NO_OVERHEAD

    def plan(self, budget: int, top: int = 0) -> Plan:
        """Choose the tiles.

        Args:
            budget: Bytes that one run may take, or with all that is held beside it.
            top: First output row that is wanted, where a piece of an earlier plan begins.

        Returns:
            The plan; one tile if the whole picture is wanted and fits.

        Raises:
            MemoryBudgetError: If even the smallest tile does not fit.
            BundleError: If no tiles that fit have sizes that the session takes.
        """
        if self.whole_only:
            return self._whole_plan(budget)
        rows, columns = self._cuts(0, top), self._cuts(1, 0)
        whole = rows[0], columns[0]
        if top == 0 and self._cost(*whole) <= budget and _is_taken(*whole):
            return self._plan_of(*whole)
        fitting = self._fitting(rows, columns, budget)
        if not fitting:
            least = self._least(rows, columns)
            if least <= budget:
                raise self._no_profile(budget)
            raise MemoryBudgetError(
                f"{self._name} must be at least {least} bytes for {size_text(self.source)} to "
                f"{size_text(self.target)}, got {budget}",
                option=self._name,
            )
        return self._plan_of(*min(fitting, key=lambda pair: self._work(*pair)))

    def smaller(self, plan: Plan, top: int) -> Plan:
        """Choose tiles of about half the memory for what is left of a picture.

        Args:
            plan: Tiles that turned out to be too large.
            top: First output row that is still wanted, where a piece of it begins.

        Returns:
            A plan with a lower peak.

        Raises:
            MemoryBudgetError: If there are no smaller tiles.
            BundleError: If none of them have sizes that the session takes.
        """
        had = plan.peak_bytes if self.beside.counts else plan.run_bytes
        least = had
        if not self.whole_only:
            least = self._least(self._cuts(0, top), self._cuts(1, 0))
        if least >= had:
            raise MemoryBudgetError(f"there are no tiles smaller than {plan.largest}")
        return self.plan(max(had - plan.run_bytes // 2, least), top)

    @property
    def _name(self) -> str:
        """Name of the argument that the budget comes from."""
        return "max_memory" if self.beside.counts else "memory_budget"

    def _whole_plan(self, budget: int) -> Plan:
        rows, columns = (self._cut(i, _whole(*self._axis(i))) for i in (0, 1))
        needed = self._cost(rows, columns)
        if needed > budget:
            raise MemoryBudgetError(
                f"{self._name} must be at least {needed} bytes for {size_text(self.source)}, "
                f"got {budget}; this model computes whole pictures only",
                option=self._name,
            )
        if not _is_taken(rows, columns):
            raise self._no_profile(budget)
        return self._plan_of(rows, columns)

    def _axis(self, axis: int) -> tuple[int, int]:
        return self.source[axis], self.target[axis]

    def _cuts(self, axis: int, begin: int) -> list[AxisSplit]:
        """Return one cut for every largest size that a piece can have, the largest first."""
        source, target = self._axis(axis)
        units = -(-(target - begin) // self.halo.align)
        counts = sorted({-(-units // size) for size in range(1, units + 1)})
        pieces = [
            pieces_of(source, target, count=n, halo=self.halo, fade=self.fade, begin=begin)
            for n in counts
        ]
        if begin == 0:
            pieces[0] = _whole(source, target)
        return [self._cut(axis, each) for each in pieces]

    def _cut(self, axis: int, pieces: tuple[TileSpan, ...]) -> AxisSplit:
        extents = [piece.extent for piece in pieces]
        pixels = [extent.lr_size for extent in extents]
        patches = [math.ceil(extent.out_size / self.halo.patch) for extent in extents]
        takers = frozenset({1}) if self.limits is None else self.limits.takers(axis, extents)
        kept = max(piece.end - piece.begin for piece in pieces)
        return AxisSplit(
            pieces, kept, max(pixels), max(patches), sum(pixels), sum(patches), takers
        )

    def _fitting(
        self, rows: list[AxisSplit], columns: list[AxisSplit], budget: int
    ) -> list[tuple[AxisSplit, AxisSplit]]:
        """Return for each cut of the rows the best one of the columns, where there is one."""
        pairs = []
        for row in rows:
            # Work grows with the number of pieces: the first cut that fits is the best.
            fits = (cut for cut in columns if self._cost(row, cut) <= budget)
            column = next((cut for cut in fits if _is_taken(row, cut)), None)
            if column is not None:
                pairs.append((row, column))
        return pairs

    def _least(self, rows: list[AxisSplit], columns: list[AxisSplit]) -> int:
        return min(self._cost(row, column) for row in rows for column in columns)

    def _run(self, row: AxisSplit, column: AxisSplit) -> int:
        return self.memory.estimate(row.pixels * column.pixels, row.patches * column.patches)

    def _peak(self, row: AxisSplit, column: AxisSplit) -> int:
        return self.beside.held + row.kept * self.beside.row_bytes + self._run(row, column)

    def _cost(self, row: AxisSplit, column: AxisSplit) -> int:
        """Return what a budget is compared with."""
        return self._peak(row, column) if self.beside.counts else self._run(row, column)

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


def _is_taken(row: AxisSplit, column: AxisSplit) -> bool:
    """Return whether the session takes every tile of two cuts."""
    return all(above & beside for above in row.takers for beside in column.takers)
