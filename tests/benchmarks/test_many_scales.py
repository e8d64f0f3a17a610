"""The benchmark of several scales measures both ways on a bundle with stages."""

from benchmarks.many_scales import measured
from flowsr_runtime import embedded_bundle


def test_both_ways_are_measured_and_equal() -> None:
    result = measured(embedded_bundle(), (1.5, 2.0), side=24, repeats=1, threads=1)
    assert result["max_abs"] == 0
    assert result["ratio"] == result["together"] / result["separate"]
    assert len(result["query"]) == 2
    assert 0.5 < result["lower_bound"] < 1
