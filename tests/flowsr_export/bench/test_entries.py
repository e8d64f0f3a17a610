"""The fit of time over pixels."""

from dataclasses import replace

import pytest

from flowsr_export.bench.entries import Row, fit_scaling
from tests.flowsr_export.bench.benchmarks import row

COSTS = (0.01, 2e-6, 3e-7)


def rows(factor: float = 1.0) -> list[Row]:
    """Rows that grow by `COSTS`, the last one by `factor` more."""
    grown = []
    for scale in ("2", "3", "4"):
        for side in (32, 64, 128):
            out = (side * int(scale)) ** 2
            grown.append(row([COSTS[0] + COSTS[1] * side**2 + COSTS[2] * out], scale, side))
    last = grown.pop()
    return [*grown, replace(last, seconds={"p50": factor * last.median})]


def test_the_fit_finds_the_costs() -> None:
    (fit,) = fit_scaling(rows())
    costs = fit.seconds, fit.seconds_per_input_pixel, fit.seconds_per_output_pixel
    assert costs == pytest.approx(COSTS)
    assert fit.departures == ()


def test_a_row_that_departs_is_named() -> None:
    (fit,) = fit_scaling(rows(1.5))
    assert [(d.scale, d.lr) for d in fit.departures] == [("4", (128, 128))]
    assert fit.departures[0].ratio > 1.15


def test_no_cost_is_negative() -> None:
    shrinking = [row([1.0 / side], scale, side) for scale in "23" for side in (8, 16, 32)]
    (fit,) = fit_scaling(shrinking)
    assert (fit.seconds_per_input_pixel or 0) >= 0
    assert (fit.seconds_per_output_pixel or 0) >= 0


def test_each_backend_has_a_fit_of_its_own() -> None:
    others = [replace(one, backend="torch") for one in rows()]
    assert [fit.backend for fit in fit_scaling(rows() + others)] == ["onnxruntime", "torch"]


def test_one_scale_gives_no_fit() -> None:
    (fit,) = fit_scaling([row([0.1], "2", side) for side in (8, 16, 32, 64)])
    assert fit.seconds is None
    assert "several sizes and scales" in str(fit.trouble)
