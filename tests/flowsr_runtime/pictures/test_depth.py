"""Depths follow from the dtype, and conversions round to the nearest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime.errors import ShapeError, UsageError
from flowsr_runtime.pictures.depth import (
    DEPTHS,
    Depth,
    check_depth,
    depth_of,
    promote_depth,
    to_depth,
)

EIGHT = np.arange(256, dtype=np.uint8)
SIXTEEN = np.arange(65536, dtype=np.uint16)


def test_dark_sixteen_bits_are_sixteen_bits() -> None:
    assert depth_of(np.zeros((2, 2), np.uint16)) == 16


def test_bits_come_back_from_every_finer_depth() -> None:
    for depth in DEPTHS:
        np.testing.assert_array_equal(to_depth(to_depth(EIGHT, depth), 8), EIGHT)
    np.testing.assert_array_equal(to_depth(to_depth(SIXTEEN, "float"), 16), SIXTEEN)


def test_white_is_white_in_every_depth() -> None:
    white = [to_depth(EIGHT[255:], depth)[0] for depth in DEPTHS]
    assert white == [255, 65535, 1.0]


def test_sixteen_bits_are_rounded_to_the_nearest_eight() -> None:
    due = np.floor(SIXTEEN.astype(np.float64) / 257 + 0.5)
    np.testing.assert_array_equal(to_depth(SIXTEEN, 8), due)


@given(st.floats(0, 1, width=32), st.sampled_from([(8, 255), (16, 65535)]))
def test_floats_are_rounded_to_the_nearest(value: float, target: tuple[Depth, int]) -> None:
    depth, full = target
    result = int(to_depth(np.array([value], np.float32), depth)[0])
    assert abs(result - value * full) <= 0.5 + 0.01  # float32 holds 65535 to a 256th


def test_at_least_goes_up_and_never_down() -> None:
    assert promote_depth(EIGHT, 16).dtype == np.uint16
    assert promote_depth(SIXTEEN, 8) is SIXTEEN
    assert promote_depth(SIXTEEN, "float").dtype == np.float32


def test_another_dtype_is_refused() -> None:
    with pytest.raises(ShapeError, match="must be uint8, uint16 or float32, got float64"):
        depth_of(np.zeros(3))


@pytest.mark.parametrize("depth", [0, 10, "16", None])
def test_another_depth_is_refused(depth: object) -> None:
    with pytest.raises(UsageError, match="depth must be 8, 16 or float, got"):
        check_depth(depth)
