"""The least time of an engine on a GPU."""

from typing import Any

import pytest

from flowsr_export.engine.layers import Layer
from flowsr_export.engine.roofline import roofline_facts, roofline_of
from flowsr_export.machine.gpus import GPUS, gpu_like
from flowsr_export.onnx_graph.multiply_adds import MacCount, Product

WORK = MacCount(
    80,
    {},
    {},
    0,
    {
        "a": Product(40 * 10**9, "fp16", True),
        "b": Product(30 * 10**9, "fp16", False),
        "c": Product(10 * 10**9, "fp32", True),
    },
)
LAYERS = [Layer("fp16", ("a",), 3 * 10**9, 10**9), Layer(None, (), 0, 0)]


def test_operations_are_twice_the_multiply_adds_by_type() -> None:
    facts = roofline_facts(WORK, LAYERS, 1)
    assert facts["operations"] == {"fp16": 140 * 10**9, "fp32": 20 * 10**9}
    assert (facts["bytes_read"], facts["bytes_written"]) == (3 * 10**9, 10**9)


@pytest.mark.parametrize(
    ("layers", "profiles"),
    [([], 1), (LAYERS, 2), ([*LAYERS, Layer("fp16", (), None, 5)], 1)],
    ids=["no layers", "two profiles", "a range of sizes"],
)
def test_bytes_that_cannot_be_counted_are_not_claimed(
    layers: list[Layer], profiles: int
) -> None:
    facts = roofline_facts(WORK, layers, profiles)
    assert (facts["bytes_read"], facts["bytes_written"]) == (None, None)
    found = roofline_of({"work": facts}, ["8.9"])
    assert found is not None
    assert found.memory_ms is None
    reason = "TensorRT tells them for an engine of one size (--exact)"
    assert found.lines()[1] == f"bytes not known: {reason}"


def test_the_least_times_follow_from_the_rates_of_the_gpu() -> None:
    facts: dict[str, Any] = {"work": roofline_facts(WORK, LAYERS, 1)}
    found = roofline_of(facts, ["8.0+"], "rtx-4090")
    assert found is not None
    assert found.product_ms == pytest.approx(1e3 * (0.140 / 165 + 0.020 / 82.6))
    assert found.memory_ms == pytest.approx(1e3 * 4 / 1008)
    assert found.lines() == [
        "0.160 TFLOP, at least 1.09 ms on rtx-4090",
        "3.00 GB read and 1.00 GB written, at least 3.97 ms on rtx-4090",
    ]


def test_eight_bits_have_a_rate_of_their_own() -> None:
    (h100,) = (gpu for gpu in GPUS if gpu.name == "h100")
    times = [h100.seconds(kind, 1e12) for kind in ("fp32", "fp16", "bf16", "int8", "fp8")]
    assert times == sorted(times, reverse=True)
    assert times[3] == times[4] < times[2]


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [(["8.9"], "rtx-4090"), (["8.0+"], "a100"), (["9.0", "8.9"], "rtx-4090"), ([], None)],
)
def test_a_gpu_of_the_engines_capability_stands_for_it(
    capabilities: list[str], name: str | None
) -> None:
    found = gpu_like(capabilities)
    assert (found and found.name) == name


def test_an_engine_of_an_earlier_version_has_no_roofline() -> None:
    assert roofline_of({}, ["8.9"]) is None
