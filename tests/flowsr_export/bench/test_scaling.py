"""The fit of the growth over pixels."""

from typing import Any

import pytest

from flowsr_export.bench.scaling import growth_of
from tests.flowsr_export.bench.benchmarks import row

COSTS = (0.01, 2e-6, 3e-7)


def rows(factor: float = 1.0) -> list[dict[str, Any]]:
    """Rows that grow by `COSTS`, the last one by `factor` more."""
    made = []
    for scale in ("2", "3", "4"):
        for side in (32, 64, 128):
            out = (side * int(scale)) ** 2
            made.append(row([COSTS[0] + COSTS[1] * side**2 + COSTS[2] * out], scale, side))
    made[-1]["seconds"]["p50"] *= factor
    return made


def test_the_fit_finds_the_costs() -> None:
    (fit,) = growth_of(rows())
    found = [fit[f"seconds{name}"] for name in ("", "_per_input_pixel", "_per_output_pixel")]
    assert found == pytest.approx(COSTS)
    assert fit["departures"] == []


def test_a_row_that_departs_is_named() -> None:
    (fit,) = growth_of(rows(1.5))
    assert [(d["scale"], d["lr"]) for d in fit["departures"]] == [("4", [128, 128])]
    assert fit["departures"][0]["ratio"] > 1.15


def test_no_cost_is_negative() -> None:
    shrinking = [row([1.0 / side], scale, side) for scale in "23" for side in (8, 16, 32)]
    (fit,) = growth_of(shrinking)
    assert fit["seconds_per_input_pixel"] >= 0
    assert fit["seconds_per_output_pixel"] >= 0


def test_each_backend_has_a_fit_of_its_own() -> None:
    others = [{**one, "backend": "torch"} for one in rows()]
    assert [fit["backend"] for fit in growth_of(rows() + others)] == ["onnxruntime", "torch"]


def test_one_scale_gives_no_fit() -> None:
    (fit,) = growth_of([row([0.1], "2", side) for side in (8, 16, 32, 64)])
    assert "several sizes and scales" in fit["trouble"]
