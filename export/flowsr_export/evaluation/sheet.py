"""Contact sheet of an evaluation: a few images, each model beside the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.evaluation.dataset import Pair
from flowsr_export.evaluation.metrics import METRICS, luma
from flowsr_export.evaluation.run import Result
from flowsr_export.reports.contact_sheet import Box, Panel, Row, draw_sheet
from flowsr_runtime.geometry import exact_scale, size_text

__all__ = ["chosen", "sheet_of"]

PICTURES = 4
DETAIL_PIXELS = 60  # a side, in pixels of the original
SHOWN = (("psnr-y", "psnr"), ("lpips", "ssim-y", "ssim"))  # the first available of each


def chosen(pairs: Sequence[Pair]) -> list[Pair]:
    """Return at most four pairs at the largest scale, spread evenly over all of them."""
    largest = max(exact_scale(pair.scale) for pair in pairs)
    candidates = [pair for pair in pairs if exact_scale(pair.scale) == largest]
    count = min(PICTURES, len(candidates))
    return [candidates[place * len(candidates) // count] for place in range(count)]


def sheet_of(results: Sequence[Result]) -> Image.Image:
    """Draw the results of some pairs.

    Args:
        results: One result for each pair and model, with the results of a pair together.

    Returns:
        RGB sheet: for each pair the central square of every model's output, and the two most
        detailed parts of it and of the original.
    """
    pairs: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        pairs.setdefault((result.row.dataset, result.row.picture), []).append(result)
    return draw_sheet([_row(members) for members in pairs.values()])


def _row(results: Sequence[Result]) -> Row:
    row = results[0].row
    original = _square(results[0].original)
    panels = [
        Panel(r.row.method, _figure(r.row.figures), Image.fromarray(_square(r.output)), True)
        for r in results
    ]
    sizes = f"{size_text(row.lr)} to {size_text(row.size)}"
    return Row(
        # The letter x: Pillow's default font has no multiplication sign.
        title=f"x{row.scale}",
        note=f"{row.dataset} {row.picture}, {sizes} pixels",
        panels=[*panels, Panel("original", "", Image.fromarray(original), whole=False)],
        details=_details(original),
    )


def _square(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest central square."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def _figure(figures: Mapping[str, float]) -> str:
    available = [[name for name in names if name in figures][:1] for names in SHOWN]
    names = [name for first in available for name in first]
    return ", ".join(f"{name} {figures[name]:.{METRICS[name].digits}f}" for name in names)


def _details(square: NDArray[np.uint8]) -> list[Box]:
    """Return the two disjoint boxes with the steepest changes of luma."""
    whole = square.shape[0]
    side = max(min(DETAIL_PIXELS, whole // 3), 1)
    plane = luma(square)
    steep = np.abs(np.diff(plane, axis=0))[:, 1:] + np.abs(np.diff(plane, axis=1))[1:]
    sums = np.pad(steep.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    places = sorted({*range(0, whole - side, max(side // 4, 1)), whole - side})
    energy = {(top, left): _within(sums, top, left, side) for top in places for left in places}
    first = max(energy, key=energy.__getitem__)
    apart = [at for at in energy if max(abs(at[0] - first[0]), abs(at[1] - first[1])) >= side]
    second = max(apart or [first], key=energy.__getitem__)
    return [(left, top, left + side, top + side) for top, left in (first, second)]


def _within(sums: NDArray[np.float64], top: int, left: int, side: int) -> float:
    """Return the sum over a box from cumulative sums; the last line has no change."""
    bottom, right = (min(at + side, sums.shape[0] - 1) for at in (top, left))
    return float(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])
