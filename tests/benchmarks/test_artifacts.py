"""The measurement of artifacts sees those that a model has."""

import numpy as np
import pytest

from benchmarks.artifacts import made_images, markdown, measure_made, measure_photo
from flowsr_lp import LinfLP
from flowsr_lp.training.synthetic import KINDS
from tests import stand_in
from tests.flowsr_export.networks import small, small_prior

PHOTO = stand_in.picture(40, 44, "photo")


@pytest.fixture
def network() -> LinfLP:
    return small(small_prior(depth=1)).requires_grad_(False)


def test_an_exploding_network_is_out_of_range_without_its_guard_alone(network: LinfLP) -> None:
    network.linf.imnet.last._weight.mul_(0.02)
    photo = measure_photo(network, "photo", PHOTO, "2.7")
    assert photo.out_of_range > 1
    assert photo.guarded == 0
    assert photo.mesh > 2
    assert not network.linf.guard


def test_the_made_images_are_three_of_each_kind_and_always_the_same() -> None:
    images = made_images([])
    assert len(images) == 3 * len(KINDS) == 24
    assert all(image.shape == (192, 192, 3) for image in images.values())
    again = made_images([])
    assert all(np.array_equal(again[name], image) for name, image in images.items())


def test_color_in_a_gray_image_is_counted(network: LinfLP) -> None:
    gray = np.repeat(stand_in.picture(96, 96, "gray")[..., :1], 3, axis=2)
    colored, _ = measure_made(network, "gray", gray, 2)
    network.linf.guard = True
    guarded, (bicubic, output) = measure_made(network, "gray", gray, 2)
    assert colored.color > guarded.color == 0
    assert bicubic.shape == output.shape == gray.shape


def test_the_report_begins_with_the_worst(network: LinfLP) -> None:
    photos = [measure_photo(network, "photo", PHOTO, scale) for scale in ("2", "4")]
    made, _ = measure_made(network, "text", made_images([])["text 0"], 4)
    text = markdown(photos, [made])
    assert f"| mesh ratio | {max(photo.mesh for photo in photos):.4g} |" in text
    assert text.count("| photo |") == 2
