"""Values out of range are counted and located, in one line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime.tiling.exploding_inverse import (
    OutOfRangeValues,
    count_guarded,
    find_out_of_range,
)

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_pictures_are_sound(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).uniform(-1, 2, shape).astype(np.float32)
    assert find_out_of_range(values) is None
    assert find_out_of_range(np.array([[-1, 2]], dtype=np.float32)) is None


def test_what_is_found_is_counted_and_placed() -> None:
    values = np.zeros((3, 10, 20), dtype=np.float32)
    values[0, 2, 5], values[1, 2, 5], values[2, 7, 3] = np.nan, np.inf, -1.5
    assert find_out_of_range(values) == OutOfRangeValues(
        non_finite=2, out_of_range=1, total=600, rows=(2, 7), columns=(3, 5)
    )


@given(SHAPES, st.data(), st.sampled_from([np.nan, np.inf, -np.inf, 2.5, -3]))
def test_a_single_value_is_placed_in_the_whole_picture(
    shape: tuple[int, int, int], data: st.DataObject, value: float
) -> None:
    values = np.zeros(shape, dtype=np.float32)
    channel, row, column = (data.draw(st.integers(0, side - 1)) for side in shape)
    values[channel, row, column] = value
    found = find_out_of_range(values, top=100, left=50)
    assert found is not None
    assert (found.rows, found.columns) == ((100 + row,) * 2, (50 + column,) * 2)
    assert found.non_finite + found.out_of_range == 1
    assert found.total == values.size


@given(st.integers(1, 19))
def test_parts_joined_are_what_is_found_in_the_whole(cut: int) -> None:
    values = np.random.default_rng(cut).normal(0, 3, (3, 20, 8)).astype(np.float32)
    above, below = (
        find_out_of_range(part, top=top, total=values.size)
        for part, top in ((values[:, :cut], 0), (values[:, cut:], cut))
    )
    assert above is not None
    assert below is not None
    assert (above | below) == find_out_of_range(values)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            OutOfRangeValues(24, 0, 1200, (5, 6), (11, 14)),
            "24 of 1200 values (2 %) are NaN or infinite, in output rows 5-6, columns 11-14",
        ),
        (
            OutOfRangeValues(0, 1, 3000, (5, 5), (0, 0)),
            "1 of 3000 values (0.0333 %) lie outside [-1, 2], in output rows 5-5, columns 0-0",
        ),
        (
            OutOfRangeValues(1, 2, 3, (0, 0), (0, 2)),
            "1 of 3 values (33.3 %) are NaN or infinite and 2 of 3 values (66.7 %) lie outside "
            "[-1, 2], in output rows 0-0, columns 0-2",
        ),
    ],
)
def test_an_explosion_is_one_line(found: OutOfRangeValues, line: str) -> None:
    assert str(found) == line


def test_patches_at_the_ends_of_the_guarded_range_are_counted_once_each() -> None:
    values = np.full((7, 9, 3), 0.5, np.float32)
    assert count_guarded(values, 3) == 0
    values[0, 0], values[2, 2, 0] = 1.1, -0.1  # one patch
    values[3, 2, 1] = 1.0995  # half precision, the next patch below
    values[6, 8, 2] = -0.1  # the last patch, which reaches beyond the rows
    values[0, 5, 0] = 1.09  # in range
    assert count_guarded(values, 3) == 3
