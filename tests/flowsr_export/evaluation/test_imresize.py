"""Bicubic as MATLAB's: against results of MATLAB, and the definition written out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_runtime.errors import ShapeError
from tests.stand_in import picture

# Input and results of MATLAB's imresize(..., "bicubic"), as the tests of Octave's image
# package record them.
SOURCE = [
    [116, 227, 153, 69, 146, 194, 59, 130, 139, 106],
    [2, 47, 137, 249, 90, 75, 16, 24, 158, 44],
    [155, 68, 46, 84, 166, 156, 69, 204, 32, 152],
    [71, 221, 137, 230, 210, 153, 192, 115, 30, 118],
    [107, 143, 108, 52, 51, 73, 101, 21, 175, 90],
    [54, 158, 143, 77, 26, 168, 113, 229, 165, 225],
    [9, 47, 133, 135, 130, 207, 236, 43, 19, 73],
    [129, 60, 59, 243, 64, 181, 249, 56, 32, 86],
]
HALF = [
    [105, 140, 126, 81, 109],
    [110, 134, 153, 114, 93],
    [108, 108, 94, 127, 146],
    [67, 126, 162, 149, 62],
]
ONE_AND_A_HALF = [
    [116, 187, 237, 171, 94, 61, 135, 191, 187, 75, 91, 142, 140, 124, 108],
    [43, 92, 143, 149, 164, 163, 119, 123, 118, 44, 38, 80, 151, 118, 62],
    [13, 21, 47, 107, 195, 228, 115, 81, 70, 24, 19, 56, 137, 105, 48],
    [146, 98, 49, 49, 71, 107, 148, 159, 132, 58, 124, 176, 61, 85, 146],
    [118, 139, 144, 92, 116, 168, 201, 188, 159, 140, 167, 158, 27, 69, 153],
    [61, 151, 218, 145, 174, 219, 201, 164, 146, 187, 148, 84, 48, 76, 115],
    [102, 132, 151, 119, 90, 72, 72, 72, 83, 114, 60, 31, 144, 130, 80],
    [81, 121, 154, 133, 87, 41, 19, 67, 116, 95, 108, 140, 183, 180, 163],
    [37, 95, 152, 150, 117, 73, 35, 108, 179, 130, 174, 214, 153, 176, 219],
    [3, 29, 73, 131, 136, 120, 116, 162, 214, 229, 147, 54, 35, 62, 96],
    [67, 54, 51, 83, 153, 187, 111, 141, 210, 255, 149, 22, 13, 42, 74],
    [142, 99, 53, 43, 164, 237, 77, 103, 197, 254, 159, 42, 31, 59, 91],
]
# MATLAB resizes integers with a faster method of its own; Octave's tests allow one step.
MATLAB_STEPS = 1


def colours(plane: list[list[int]]) -> NDArray[np.uint8]:
    return np.repeat(np.array(plane, np.uint8)[..., None], 3, axis=2)


def steps(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.asarray(np.abs(a.astype(np.int64) - b))


@pytest.mark.parametrize("wanted", [HALF, ONE_AND_A_HALF])
def test_it_is_matlabs(wanted: list[list[int]]) -> None:
    found = matlab_bicubic(colours(SOURCE), (len(wanted), len(wanted[0])))
    assert steps(found, colours(wanted)).max() <= MATLAB_STEPS
    assert (found == colours(wanted)).mean() > 0.9


def keys(x: float) -> float:
    """Keys' kernel at a = -0.5."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def written_out(row: list[int], target: int) -> list[int]:
    """Resize one row pixel by pixel."""
    source, scale = len(row), target / len(row)
    stretch = max(1 / scale, 1.0)
    found = []
    for place in range(target):
        centre = (place + 0.5) / scale - 0.5
        near = range(int(centre - 2 * stretch) - 2, int(centre + 2 * stretch) + 3)
        weights = [keys((centre - at) / stretch) for at in near]
        inside = [min(at % (2 * source), 2 * source - 1 - at % (2 * source)) for at in near]
        total = sum(w * row[at] for w, at in zip(weights, inside, strict=True)) / sum(weights)
        found.append(int(min(max(total, 0), 255) + 0.5))
    return found


@pytest.mark.parametrize("target", [1, 3, 4, 7, 10, 14, 27, 30])
def test_one_row_is_the_definition(target: int) -> None:
    found = matlab_bicubic(colours(SOURCE[:1]), (1, target))
    assert found[0, :, 0].tolist() == written_out(SOURCE[0], target)


def test_the_axis_that_shrinks_most_is_rounded_first() -> None:
    image = picture(16, 16, "order")
    rows_first = matlab_bicubic(matlab_bicubic(image, (4, 16)), (4, 8))
    assert np.array_equal(matlab_bicubic(image, (4, 8)), rows_first)
    assert not np.array_equal(
        matlab_bicubic(matlab_bicubic(image, (16, 8)), (4, 8)), rows_first
    )


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"picture must be \(h, w, 3\) uint8, got \(4, 4\)"):
        matlab_bicubic(np.zeros((4, 4), np.uint8), (2, 2))
    with pytest.raises(ShapeError, match="size must be at least 1x1, got 2x0"):
        matlab_bicubic(picture(4, 4), (0, 2))
