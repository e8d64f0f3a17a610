"""Synthetic images: every kind is drawn, and the generator alone decides the image."""

import numpy as np
import pytest

from flowsr_lp.training.synthetic import KINDS, synthetic_image


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_size_and_some_contrast(kind: str) -> None:
    image = synthetic_image(50, np.random.default_rng(3), kind=kind)
    assert image.shape == (50, 50, 3)
    assert image.dtype == np.uint8
    assert np.ptp(image) > 20


def test_the_same_generator_draws_the_same_image() -> None:
    first, second = (synthetic_image(40, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_many_images_are_gray() -> None:
    rng = np.random.default_rng(0)
    images = [synthetic_image(24, rng) for _ in range(60)]
    gray = sum((np.ptp(image, axis=-1) == 0).all() for image in images)
    assert 15 <= gray <= 55
