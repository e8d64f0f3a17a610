"""The picture and the work of the benchmark of large pictures."""

import numpy as np
import pytest

from benchmarks.large_picture import mosaic, work_of
from flowsr_runtime import Upscaler


@pytest.mark.parametrize("side", [100, 600])
def test_the_mosaic_has_the_size_and_no_two_equal_quarters(side: int) -> None:
    picture = mosaic(side)
    half = side // 2
    assert picture.shape == (side, side, 3)
    assert picture.dtype == np.uint8
    assert (picture[:half, :half] != picture[half:, half:]).any()
    assert picture.std() > 20


def test_the_work_of_one_tile_is_that_of_the_whole() -> None:
    with Upscaler.open(threads=1) as upscaler:
        assert work_of(upscaler.plan((64, 48), 4)) == 1
        assert 1 < work_of(upscaler.plan((1024, 1024), 4)) < 2
