"""Pictures of every mode and depth, on their way through a model."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.pictures.picture import Picture
from flowsr_runtime.pictures.pixels import luma
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.doubles.doubling import Doubling

SHAPES = [(5, 4), (5, 4, 1), (5, 4, 2), (5, 4, 3), (5, 4, 4)]
MODES = ["L", "L", "LA", "RGB", "RGBA"]
DTYPES = [np.uint8, np.uint16, np.float32]


def noise(shape: tuple[int, ...], dtype: type[Any]) -> NDArray[Any]:
    top = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    values = np.random.default_rng(3).uniform(0.1, 1, shape) * top
    return values.astype(dtype)


@pytest.fixture
def doubler(bundles: dict[str, Bundle]) -> Upscaler:
    return Upscaler(bundles["fixed"], Doubling())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_passes_through_the_model_unchanged(
    doubler: Upscaler, shape: tuple[int, ...], dtype: type[Any]
) -> None:
    image = noise(shape, dtype)
    result = doubler.upscale(image)
    assert result.shape == (10, 8, *shape[2:])
    assert result.dtype == dtype
    colors = 1 if Picture(image).gray else 3
    found = result.reshape(10, 8, -1)[::2, ::2, :colors]
    np.testing.assert_allclose(found, image.reshape(5, 4, -1)[..., :colors], rtol=1e-6)


def test_every_sixteen_bit_value_passes_through_the_model(doubler: Upscaler) -> None:
    image = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(doubler.upscale(image)[::2, ::2], image)


def test_dark_sixteen_bits_stay_dark(doubler: Upscaler) -> None:
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert doubler.upscale(image).max() == 255


def test_a_gray_result_is_the_luma_of_the_models(bundles: dict[str, Bundle]) -> None:
    class Red(Doubling):
        def run(self, feeds: Any) -> NDArray[np.float32]:
            return super().run(feeds) * np.array([1, 0, 0], np.float32)[:, None, None]

    result = Upscaler(bundles["fixed"], Red()).upscale(np.full((2, 2), 200, np.uint8))
    assert np.unique(result).tolist() == [60]  # 0.299 * 200 = 59.8


def test_views_of_gray_are_taken(doubler: Upscaler) -> None:
    image = noise((8, 8), np.uint8)[::2, ::-1]
    np.testing.assert_array_equal(doubler.upscale(image)[::2, ::2], image)


def test_luma_of_gray_is_gray() -> None:
    gray = np.linspace(0, 1, 256, dtype=np.float32)[None, :, None].repeat(3, axis=2)
    np.testing.assert_array_equal(luma(gray), gray[..., :1])


@pytest.mark.parametrize(("shape", "mode"), list(zip(SHAPES, MODES, strict=True)))
def test_colors_and_alpha_are_views_of_the_pixels(shape: tuple[int, ...], mode: str) -> None:
    picture = Picture(noise(shape, np.uint8))
    assert (picture.mode, picture.size, picture.depth) == (mode, (5, 4), 8)
    assert picture.rgb.shape == (5, 4, 3)
    assert np.shares_memory(picture.rgb, picture.pixels)
    assert (picture.alpha is None) == (mode in ("L", "RGB"))
    assert picture.alpha is None or np.shares_memory(picture.alpha, picture.pixels)
