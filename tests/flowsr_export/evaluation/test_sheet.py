"""The sheet: which pictures, which details."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_export.evaluation.dataset import Pair
from flowsr_export.evaluation.run import Result
from flowsr_export.evaluation.sheet import chosen, sheet_of
from flowsr_export.reports.contact_sheet import MARKS
from tests.flowsr_export.evaluation.evaluations import ROW


def pairs(count: int, scale: str) -> list[Pair]:
    return [Pair("Set", str(i), scale, Path(f"{i}.png"), None) for i in range(count)]


def result(original: NDArray[np.uint8], method: str = "bicubic") -> Result:
    size = (original.shape[0], original.shape[1])
    return Result(replace(ROW, method=method, size=size), original // 2, original)


def share_of(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    return float((sheet == colour).all(2).mean())


def test_four_pictures_at_the_largest_scale_are_shown() -> None:
    found = chosen([*pairs(9, "2"), *pairs(9, "10"), *pairs(9, "2.7")])
    assert [(pair.name, pair.scale) for pair in found] == [
        ("0", "10"),
        ("2", "10"),
        ("4", "10"),
        ("6", "10"),
    ]
    assert len(chosen(pairs(2, "4"))) == 2


def test_methods_stand_beside_the_original() -> None:
    flat = np.full((90, 120, 3), 200, np.uint8)
    sheet = np.asarray(sheet_of([result(flat), result(flat, "flowsr-lp")]))
    assert share_of(sheet, (100, 100, 100)) > 3 * share_of(sheet, (200, 200, 200)) > 0


def test_details_are_where_the_original_changes() -> None:
    original = np.full((256, 256, 3), 90, np.uint8)
    original[8:40:2, 8:40] = 255
    original[200:240, 200:240:2] = (0, 255, 0)
    sheet = np.asarray(sheet_of([result(original)]))
    # White and green lines are in a detail each, four times larger, beside the whole.
    assert share_of(sheet, (255, 255, 255)) > 0
    assert share_of(sheet, (0, 255, 0)) > 0
    assert all(share_of(sheet, mark) > 0 for mark in MARKS)


@pytest.mark.parametrize("side", [1, 2, 3, 13, 41])
def test_small_pictures_have_details_too(side: int) -> None:
    noise = np.random.default_rng(side).integers(0, 256, (side, side + 2, 3), np.uint8)
    assert share_of(np.asarray(sheet_of([result(noise)])), MARKS[0]) > 0
