"""The mesh of patches: found where it is, and not where there is none."""

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_export.evaluation.mesh import mesh_pattern, mesh_ratio, smallest_side
from flowsr_runtime.errors import ShapeError

RNG = np.random.default_rng(3)
BICUBIC = np.full((120, 132, 3), 100, np.uint8)
DETAIL = RNG.integers(-6, 7, (120, 132, 1))


def output(pattern: NDArray[np.int64] | int = 0) -> NDArray[np.uint8]:
    return np.asarray(BICUBIC + DETAIL + pattern, np.uint8)


def grid(step: int, period: int) -> NDArray[np.int64]:
    """Raise every period-th column."""
    pattern = np.zeros((120, 132, 1), np.int64)
    pattern[:, ::period] = step
    return pattern


def test_detail_without_a_mesh_has_a_ratio_near_one() -> None:
    assert 0.5 < mesh_ratio(output(), BICUBIC, 3) < 1.8
    assert mesh_pattern(output(), BICUBIC, 3) < 1.0


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_mesh_is_seen_at_its_own_period(period: int) -> None:
    meshed = output(grid(8, period))
    assert mesh_ratio(meshed, BICUBIC, period) > 30
    # Luma spans 219 of 255 steps.
    assert mesh_pattern(meshed, BICUBIC, period) == pytest.approx(8 * 219 / 255, abs=1.2)


def test_rows_and_columns_count_alike() -> None:
    meshed = output(grid(8, 3))
    turned = meshed.transpose(1, 0, 2)
    ratio = mesh_ratio(turned, BICUBIC.transpose(1, 0, 2), 3)
    assert ratio == pytest.approx(mesh_ratio(meshed, BICUBIC, 3))


def test_a_mesh_of_another_period_is_not_this_one() -> None:
    assert mesh_ratio(output(grid(8, 4)), BICUBIC, 3) < 2.5


def test_equal_images_have_no_mesh() -> None:
    assert mesh_ratio(BICUBIC, BICUBIC, 3) == 1
    assert mesh_pattern(BICUBIC, BICUBIC, 3) == 0


@pytest.mark.parametrize(
    ("shape", "patch", "words"),
    [
        ((71, 100, 3), 3, "at least 72 .* 100x71"),
        ((100, 100, 3), 1, "patch .* 1"),
    ],
)
def test_what_has_no_mesh_is_refused(
    shape: tuple[int, int, int], patch: int, words: str
) -> None:
    image = np.zeros(shape, np.uint8)
    with pytest.raises(ShapeError, match=words):
        mesh_ratio(image, image, patch)
    assert smallest_side(3) == 72


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"120, 132.*100, 132"):
        mesh_pattern(output(), BICUBIC[:100], 3)
