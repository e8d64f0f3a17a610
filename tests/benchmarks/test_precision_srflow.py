"""Every part of SRFlow that stays float32 can be switched, and each switch is felt."""

import pytest

from benchmarks.precision import Figures
from benchmarks.precision_srflow import PARTS, island_figures
from tests.flowsr_export.networks import small_srflow


@pytest.fixture(scope="module")
def rows() -> dict[str, Figures]:
    return {row.island: row for row in island_figures(small_srflow(), 8)}


@pytest.mark.parametrize("part", list(PARTS)[1:])
def test_a_part_in_float16_changes_the_picture(part: str, rows: dict[str, Figures]) -> None:
    assert rows[part].psnr != rows["none, as deployed"].psnr


def test_everything_in_float16_is_worse_than_what_is_deployed(
    rows: dict[str, Figures],
) -> None:
    assert rows["all of them"].psnr < rows["none, as deployed"].psnr
