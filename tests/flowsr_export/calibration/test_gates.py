import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_calibration.crops import Crop
from flowsr_calibration.panel import Agreement, HeldOutSet
from flowsr_export.calibration.gates import Budget, gated, load_lpips, luma_quality
from flowsr_runtime.errors import UsageError
from tests.flowsr_calibration.graphs import photograph

CROP = Crop(0, Path("a.png"), Fraction(2), photograph(0, 12), photograph(0, 24), 5.0)
GOOD = Agreement(45.0, 41.0, "a.png ×2", (0.1, -0.2, 0.0), 0, quality_loss=0.02)


class FixedPanel:
    """Finds what it was told."""

    crops = (CROP,)

    def __init__(self, agreement: Agreement) -> None:
        self.agreement = agreement
        self.references = [np.zeros((1, 3, 24, 24), np.float32)]

    def outputs(self, model: bytes) -> list[NDArray[np.float32]]:
        return [np.full((1, 3, 24, 24), 0.5, np.float32)]

    def compared(self, outputs: Sequence[NDArray[np.float32]]) -> Agreement:
        return self.agreement


def missed(agreement: Agreement, budget: Budget | None = None, lpips: Any = None) -> str:
    panel = cast("HeldOutSet", FixedPanel(agreement))
    return "; ".join(gated(panel, b"", budget or Budget(), lpips).missed)


def test_a_good_graph_misses_nothing() -> None:
    assert missed(GOOD) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"psnr": 37.9}, "at least 38 dB, got 37.90 (lowest of a crop 41.00, a.png ×2)"),
        ({"psnr": math.nan}, "at least 38 dB, got nan"),
        ({"quality_loss": 0.11}, "by at most 0.1 dB, got 0.110"),
        ({"quality_loss": math.nan}, "by at most 0.1 dB, got nan"),
        ({"color_shift": (0.1, -0.26, 0.0)}, "at most 0.25 eight-bit steps, got -0.260"),
        ({"color_shift": (0.1, math.nan, 0.0)}, "eight-bit steps, got nan"),
        ({"non_finite": 7}, "got 7"),
    ],
)
def test_each_gate_can_be_missed(changes: dict[str, Any], message: str) -> None:
    assert message in missed(replace(GOOD, **changes))


def test_lpips_that_rises_is_missed_and_that_falls_is_not() -> None:
    def lpips(a: Any, b: Any) -> Any:  # gray is further away than black
        return a.mean()

    assert "LPIPS must increase by at most 0.01, got 0.50" in missed(GOOD, lpips=lpips)
    assert missed(GOOD, lpips=lambda a, b: -a.mean()) == ""
    assert "at most 0.01, got nan" in missed(replace(GOOD, non_finite=1), lpips=lpips)


def test_a_budget_limits_the_loss_or_the_decibels() -> None:
    budget = Budget(None, 0.05)
    assert missed(replace(GOOD, psnr=20.0), budget) == ""
    assert "at most 0.05 dB" in missed(replace(GOOD, quality_loss=0.06), budget)
    assert budget.holds(replace(GOOD, worst=20.0))
    assert not budget.holds(replace(GOOD, quality_loss=math.nan))
    assert not Budget().holds(replace(GOOD, non_finite=1))
    assert not Budget().holds(replace(GOOD, worst=math.nan))


def test_quality_is_the_luma_without_the_border() -> None:
    a, b = photograph(0, 24), photograph(0, 24)
    b[:4] = 0
    assert luma_quality(a, b) == math.inf
    b[10, 10] = 0
    assert 15 < luma_quality(a, b) < 60


def test_lpips_needs_both_of_its_files() -> None:
    assert load_lpips(None, None) is None
    with pytest.raises(UsageError, match="alexnet and lpips_weights"):
        load_lpips(Path("a"), None)
