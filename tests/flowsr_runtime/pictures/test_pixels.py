"""Image checks, padding, resampling, and a single rounding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import FlowsrError, MemoryBudgetError
from flowsr_runtime.pictures.pixels import allocate, check_image, padded, resampled, store

SIDES = st.integers(1, 12)


def picture(*size: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).random((*size, 3), dtype=np.float32)


@given(SIDES, SIDES, st.sampled_from([1, 2]))
def test_sides_become_multiples_and_the_picture_stays(h: int, w: int, multiple: int) -> None:
    image = picture(h, w)
    result = padded(image, multiple)
    assert result.shape == (-(-h // multiple) * multiple, -(-w // multiple) * multiple, 3)
    np.testing.assert_array_equal(result[:h, :w], image)


@given(st.integers(1, 6).map(lambda n: 2 * n + 1), st.integers(1, 6).map(lambda n: 2 * n + 1))
def test_odd_sides_are_reflected(h: int, w: int) -> None:
    image = picture(h, w)
    result = padded(image, 2)
    np.testing.assert_array_equal(result[h, :w], image[h - 2])
    np.testing.assert_array_equal(result[:h, w], image[:, w - 2])
    np.testing.assert_array_equal(result[h, w], image[h - 2, w - 2])


def test_a_side_of_one_repeats_its_pixel_and_an_even_one_is_not_copied() -> None:
    one, even = picture(1, 1), picture(4, 6)
    np.testing.assert_array_equal(padded(one, 2), np.broadcast_to(one, (2, 2, 3)))
    assert padded(even, 2) is even


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (16, 12), (33, 17)])
def test_each_channel_is_resampled_as_pillow_does_it(size: tuple[int, int]) -> None:
    values = 3 * picture(16, 12) - 1
    result = resampled(values, size)
    assert result.shape == (*size, 3)
    for channel in range(3):
        plane = Image.fromarray(values[..., channel].copy())
        due = np.asarray(plane.resize(size[::-1], Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(result[..., channel], due)


def test_eight_bits_are_clamped_and_rounded_half_up() -> None:
    values = np.array([[[-0.5, 0.5 / 255, 1.49 / 255], [1.6 / 255, 254.6 / 255, 3]]])
    result = np.empty((1, 2, 3), dtype=np.uint8)
    store(values.astype(np.float32), result, clamp=True, truncate=False)
    assert result.tolist() == [[[0, 1, 1], [2, 255, 255]]]


@given(st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3))
def test_truncating_is_the_floor_of_what_is_clamped(numbers: list[float]) -> None:
    values = np.array(numbers, dtype=np.float32).reshape(1, 1, 3)
    result = np.empty((1, 1, 3), dtype=np.uint8)
    due = np.floor(np.float32(255) * np.clip(values, 0, 1))
    store(values, result, clamp=True, truncate=True)
    np.testing.assert_array_equal(result, due)


def test_floats_are_stored_as_they_are() -> None:
    values = 3 * picture(2, 2) - 1
    result = np.empty_like(values)
    store(values.copy(), result, clamp=False, truncate=False)
    np.testing.assert_array_equal(result, values)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(MemoryBudgetError, match="1048576x1048576 does not fit in memory"):
        allocate((2**20, 2**20, 3), np.dtype(np.float32))


@pytest.mark.parametrize(
    ("image", "changes", "message"),
    [
        (np.zeros(4, np.uint8), {}, r"got \(4,\)"),
        (np.zeros((4, 4, 5), np.uint8), {}, r"got \(4, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), {}, r"got \(0, 4, 3\)"),
        (np.zeros((4, 4, 0), np.float32), {}, r"got \(4, 4, 0\)"),
        (np.zeros((4, 4), np.float64), {}, "got float64"),
        ([[[0, 0, 0]]], {}, "got list"),
        (np.full((4, 4), -0.1, np.float32), {}, r"from -0\.1"),
        (np.full((4, 4), 1.1, np.float32), {}, r"to 1\.1"),
        (np.full((4, 4), np.nan, np.float32), {}, "nan"),
        (np.zeros((4, 4), np.uint16), {"clamp": False}, "clamp=False .* got uint16"),
        (np.zeros((4, 4), np.uint16), {"truncate": True}, "truncate=True .* got uint16"),
        (np.zeros((4, 4), np.float32), {"truncate": True}, "truncate=True .* got float32"),
        (np.zeros((4, 4), np.float32), {"io": "uint8"}, "uint8 images, got float32"),
        (np.zeros((4, 4), np.uint8), {"io": "uint8", "truncate": True}, "truncate=True"),
    ],
)
def test_other_images_are_refused(image: object, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FlowsrError, match=message):
        check_image(image, **{"clamp": True, "truncate": False, **changes})
