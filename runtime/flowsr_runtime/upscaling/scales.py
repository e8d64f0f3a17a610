"""Several scales of one image: their check, their progress, and which of them are tiled."""

from collections.abc import Sequence

from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import Number
from flowsr_runtime.tiling.tiles import Plan
from flowsr_runtime.upscaling.tile_loop import Progress

__all__ = ["MergedProgress", "ScaleOrPair", "check_scales", "tiled_scales"]

ScaleOrPair = Number | tuple[Number, Number]
"""A scale, or one each for rows and columns."""


def check_scales(scales: object, *, scale: object, size: object) -> None:
    """Check the form of several scales; each value is checked when it is used.

    Args:
        scales: A sequence of scales.
        scale: The argument for one scale, which must be None.
        size: The argument for a size, which must be None.

    Raises:
        ScaleError: If they are no sequence, or empty, or another argument is given.
    """
    if scale is not None or size is not None:
        raise ScaleError("give exactly one of scale, scales and size")
    if isinstance(scales, (str, bytes)) or not isinstance(scales, Sequence) or not scales:
        raise ScaleError(f"scales must be a list of scales, got {scales!r}")


def tiled_scales(scales: Sequence[ScaleOrPair], plans: Sequence[Plan]) -> str | None:
    """Say in one line which scales need tiles, and so run their encoder again.

    Args:
        scales: The scales.
        plans: Plan of each.

    Returns:
        The line, None if no scale needs tiles.
    """
    tiled = [str(scale) for scale, plan in zip(scales, plans, strict=True) if len(plan) > 1]
    if not tiled:
        return None
    return (
        f"scale {', '.join(tiled)} needs tiles, whose encoder runs again; a larger "
        "memory_budget avoids them"
    )


class MergedProgress:
    """The progress of several runs as one, in tiles."""

    def __init__(self, progress: Progress | None, tiles: Sequence[int]) -> None:
        """Start.

        Args:
            progress: Called with (tiles done, tiles in all) of all runs, None for nothing.
            tiles: Planned tiles of each run.
        """
        self._progress, self._tiles = progress, list(tiles)

    def part(self, index: int) -> Progress | None:
        """Return the progress of one run; the runs before it are done."""
        progress = self._progress
        if progress is None:
            return None

        def report(done: int, tiles: int) -> None:
            self._tiles[index] = tiles
            progress(sum(self._tiles[:index]) + done, sum(self._tiles))

        return report
