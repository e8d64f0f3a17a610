from pathlib import Path

import pytest

from benchmarks.int8_speed import Timing, markdown, measure
from flowsr_export.inputs.cases import Case
from tests.flowsr_export.calibration.calibrations import made_bundle


@pytest.mark.parametrize("threads", [1, 2])
def test_graphs_are_timed_and_their_kernels_named(threads: int, tmp_path: Path) -> None:
    bundle = made_bundle(tmp_path / "b")
    (found,) = measure(bundle, ["fp32"], Case((16, 16), (32, 32)), 2, threads)
    assert 0 < found.seconds[0] <= found.seconds[1]
    assert {"Conv", "Gemm"} <= {name.removeprefix("Fused") for name in found.kernels}
    assert list(found.kernels.values()) == sorted(found.kernels.values(), reverse=True)


def test_the_table_holds_every_graph_against_the_first() -> None:
    text = markdown(
        [Timing("fp32", (2.0, 2.1), {"Conv": 1500.0}), Timing("int8", (1.0, 1.1), {"Q": 700.0})]
    )
    assert "| int8 | 1.000 s | 1.100 s | 0.50 |" in text
    assert "fp32, kernels in ms, 1500 in total: Conv 1500" in text
