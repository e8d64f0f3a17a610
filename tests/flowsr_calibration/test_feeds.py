from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from flowsr_calibration.crops import Crop
from flowsr_calibration.feeds import feeds_of, scales_for
from flowsr_runtime import Bundle, embedded_bundle
from flowsr_runtime.bundle.manifest import Latent
from tests.flowsr_calibration.graphs import photograph

CROP = Crop(3, Path("a.png"), Fraction(2), photograph(0, 12), photograph(0, 24), 5.0)


def test_a_graph_of_one_scale_takes_the_picture_alone(bundle: Bundle) -> None:
    feeds = feeds_of(bundle.manifest, CROP)
    assert list(feeds) == ["input"]
    np.testing.assert_allclose(feeds["input"][0, 1], CROP.low[..., 1] / 255, rtol=1e-6)


def test_a_graph_of_any_scale_takes_the_geometry_of_the_whole_crop() -> None:
    manifest = Bundle.open(embedded_bundle()).manifest
    geometry = feeds_of(manifest, CROP)["geometry"]
    assert geometry.tolist() == [12, 12, 24, 24, 0, 0, 0, 0, 24, 24]
    assert geometry.dtype == np.int64
    assert len(scales_for(manifest)) == 3


def test_eight_bit_pictures_stay_eight_bits(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, io="uint8")
    assert feeds_of(manifest, CROP)["input"].dtype == np.uint8


def test_latents_are_drawn_from_the_number_of_the_crop(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, latents=(Latent("latent", 12, 2),))
    first, again = (feeds_of(manifest, CROP)["latent"] for _ in range(2))
    other = feeds_of(manifest, replace(CROP, index=4))["latent"]
    assert first.shape == (1, 12, 12, 12)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_a_bundle_of_one_scale_is_calibrated_at_it(bundle: Bundle) -> None:
    assert scales_for(bundle.manifest) == (Fraction(2),)
