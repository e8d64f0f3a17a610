"""Alpha is resized bilinearly, and hidden colors never show."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import MemoryBudgetError
from flowsr_runtime.pictures.alpha import fill_hidden, flatten, resize_alpha
from flowsr_runtime.pictures.depth import Depth, to_depth
from flowsr_runtime.upscaling.upscaler import Upscaler

SIDES = st.integers(1, 17)
DEPTHS: dict[type[Any], Depth] = {np.uint8: 8, np.uint16: 16, np.float32: "float"}
DTYPES = st.sampled_from([*DEPTHS])
# float32 holds 65535 to a 256th; two products and a sum follow.
HALF_A_STEP = 0.5 + 0.02


def noise(shape: tuple[int, ...], dtype: type[Any], seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).random(shape, dtype=np.float32)
    return to_depth(values, DEPTHS[dtype])


def bilinear(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the bilinear resize with half-pixel centers, in float64."""

    def matrix(source: int, count: int) -> NDArray[np.float64]:
        u = np.clip((np.arange(count) + 0.5) * source / count - 0.5, 0, source - 1)
        return np.maximum(0.0, 1.0 - np.abs(u[:, None] - np.arange(source)[None]))

    result: NDArray[np.float64] = (
        matrix(plane.shape[0], size[0]) @ plane @ matrix(plane.shape[1], size[1]).T
    )
    return result


@given(SIDES, SIDES, st.integers(0, 20), st.integers(0, 20), DTYPES)
def test_alpha_is_bilinear(h: int, w: int, more: int, wider: int, dtype: type[Any]) -> None:
    alpha, size = noise((h, w), dtype), (h + more, w + wider)
    result = resize_alpha(alpha, size)
    assert (result.shape, result.dtype) == (size, alpha.dtype)
    assert np.abs(result - bilinear(alpha, size)).max() <= HALF_A_STEP


def test_the_same_size_gives_a_copy() -> None:
    alpha = noise((3, 4), np.uint16)
    result = resize_alpha(alpha, (3, 4))
    np.testing.assert_array_equal(result, alpha)
    assert not np.shares_memory(result, alpha)


@given(SIDES, SIDES, DTYPES, st.integers(0, 3))
def test_what_is_visible_keeps_its_color(h: int, w: int, dtype: type[Any], seed: int) -> None:
    rgb, alpha = noise((h, w, 3), dtype, seed), noise((h, w), dtype, seed + 1)
    alpha[noise((h, w), np.float32, seed + 2) < 0.6] = 0
    result = fill_hidden(rgb, alpha)
    assert result.dtype == rgb.dtype
    np.testing.assert_array_equal(result[alpha > 0], rgb[alpha > 0])


@given(SIDES, SIDES, DTYPES)
def test_what_is_hidden_decides_nothing(h: int, w: int, dtype: type[Any]) -> None:
    alpha = noise((h, w), dtype)
    alpha[alpha < alpha.max()] = 0
    one = noise((h, w, 3), dtype, 5)
    other = np.where(alpha[..., None] > 0, one, noise((h, w, 3), dtype, 6)).astype(dtype)
    np.testing.assert_array_equal(fill_hidden(one, alpha), fill_hidden(other, alpha))


@given(SIDES, SIDES, DTYPES)
def test_one_visible_color_fills_everything(h: int, w: int, dtype: type[Any]) -> None:
    alpha = noise((h, w), dtype)
    alpha[alpha < alpha.max()] = 0
    color = noise((3,), dtype, 7)
    rgb = np.where(alpha[..., None] > 0, color, dtype(1)).astype(dtype)
    np.testing.assert_allclose(fill_hidden(rgb, alpha), np.broadcast_to(color, rgb.shape), 1e-6)


def test_a_block_gives_its_mean_weighted_by_alpha() -> None:
    alpha = np.array([[0, 51], [204, 0]], dtype=np.uint8)
    rgb = np.zeros((2, 2, 3), dtype=np.uint8)
    rgb[0, 1], rgb[1, 0] = 200, 100
    assert fill_hidden(rgb, alpha)[0, 0].tolist() == [120, 120, 120]


def test_the_smallest_block_decides() -> None:
    alpha = np.zeros((1, 8), dtype=np.uint8)
    rgb = np.zeros((1, 8, 3), dtype=np.uint8)
    alpha[0, [0, 7]], rgb[0, 0], rgb[0, 7] = 255, 80, 240
    shown = fill_hidden(rgb, alpha)[0, :, 0]
    assert shown.tolist() == [80, 80, 80, 80, 240, 240, 240, 240]


def test_bands_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, alpha = noise((23, 9, 3), np.uint8), noise((23, 9), np.uint8, 1)
    alpha[alpha < 200] = 0
    whole = fill_hidden(rgb, alpha), resize_alpha(alpha, (61, 20))
    monkeypatch.setattr("flowsr_runtime.pictures.alpha._BAND", 4)
    np.testing.assert_array_equal(fill_hidden(rgb, alpha), whole[0])
    np.testing.assert_array_equal(resize_alpha(alpha, (61, 20)), whole[1])


def test_alpha_beyond_memory_is_refused() -> None:
    with pytest.raises(
        MemoryBudgetError, match="alpha channel of 4194304x4194304 does not fit"
    ):
        resize_alpha(np.zeros((2, 2), np.uint16), (2**22, 2**22))


@pytest.mark.parametrize("value", [0, 255])
def test_a_picture_that_is_all_visible_or_all_hidden_is_left(value: int) -> None:
    rgb = noise((4, 5, 3), np.uint8)
    assert fill_hidden(rgb, np.full((4, 5), value, np.uint8)) is rgb


def test_hidden_colors_leave_no_fringe(bundles: dict[str, Bundle]) -> None:
    image = np.zeros((16, 16, 4), dtype=np.uint8)
    image[..., :3] = (0, 255, 0)  # loud green, hidden everywhere but in a red disc
    image[4:12, 4:12] = (200, 30, 40, 255)
    result = Upscaler.open(bundles["bilinear"]).upscale(image, 3)
    shown = result[result[..., 3] > 0][:, :3]
    assert np.abs(shown - np.array([200.0, 30.0, 40.0])).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_picture_is_laid_over_a_color(dtype: type[np.generic]) -> None:
    most = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    pixels = (np.array([[[0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0.4]]]) * most).astype(dtype)
    flat = flatten(pixels, (255, 0, 51))
    assert flat.dtype == dtype
    due = np.array([[[0, 1, 0], [1, 0, 0.2], [0.6, 0.4, 0.12]]]) * most
    np.testing.assert_allclose(flat, due, atol=most / 255 if most > 1 else 1e-6)


def test_gray_stays_gray_over_gray_and_gets_color_over_color() -> None:
    pixels = np.array([[[100, 255], [100, 0]]], np.uint8)
    np.testing.assert_array_equal(flatten(pixels, (9, 9, 9)), [[100, 9]])
    np.testing.assert_array_equal(flatten(pixels, (9, 8, 7)), [[[100, 100, 100], [9, 8, 7]]])
