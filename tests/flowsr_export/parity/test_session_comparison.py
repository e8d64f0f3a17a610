"""ONNX files side by side, by Polygraphy."""

import math

import numpy as np
import onnx
import onnx.parser
import pytest

from flowsr_export.parity.compare import HALF_TOLERANCE, Tolerance
from flowsr_export.parity.session_comparison import (
    MetricLimit,
    compare_sessions,
    every_tensor,
    metric_limit,
    open_session,
)
from flowsr_runtime.errors import BundleError, ParityError

FEEDS = [{"input": np.array(values, np.float32)} for values in ([1, 2, 3], [0, -4, 2])]
EXACT = {"second": MetricLimit("max", 1e-3)}


def model(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>\n'
        f"tiny (float[n] input) => (float[m] output) {{\n{body}\n}}"
    )


def content(body: str) -> bytes:
    return bytes(model(body).SerializeToString())


SAME = "output = Neg(input)"
FACTOR = "factor = Constant<value_float = {}>()\noutput = Mul(input, factor)"


def test_equal_sessions_pass() -> None:
    sessions = {"first": open_session(content(SAME)), "second": open_session(content(SAME))}
    (done,) = compare_sessions(sessions, FEEDS, EXACT)
    assert (done.passed, done.runs, done.max_abs) == (True, 2, 0)


@pytest.mark.parametrize(
    "other",
    [FACTOR.format(-1.01), FACTOR.format("nan"), "output = Concat<axis = 0>(input, input)"],
    ids=["one percent off", "no number", "another shape"],
)
def test_a_session_that_differs_does_not_pass(
    other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions = {"first": open_session(content(SAME)), "second": open_session(content(other))}
    (done,) = compare_sessions(sessions, FEEDS, EXACT)
    assert not done.passed
    assert capsys.readouterr() == ("", "")


def test_a_difference_of_one_run_is_enough() -> None:
    other = "output = Abs(input)"
    sessions = {"first": open_session(content("output = Identity(input)"))}
    sessions["second"] = open_session(content(other))
    (done,) = compare_sessions(sessions, FEEDS, EXACT)
    assert not done.passed
    assert done.max_abs == 8


def test_each_session_has_its_own_tolerance() -> None:
    names = ("first", "near", "far")
    factors = (1.0, 1.001, 1.1)
    sessions = {
        name: open_session(content(FACTOR.format(factor)))
        for name, factor in zip(names, factors, strict=True)
    }
    tolerances = {"near": MetricLimit("max", 0.01), "far": MetricLimit("mean", 0.25)}
    near, far = compare_sessions(sessions, FEEDS, tolerances)
    assert near.passed
    assert far.passed
    assert far.max_abs == pytest.approx(0.4, abs=1e-5)


def test_one_session_is_no_comparison() -> None:
    with pytest.raises(ParityError, match="got 1 and 2"):
        compare_sessions({"first": open_session(content(SAME))}, FEEDS, {})


def test_a_file_that_is_no_graph_is_refused() -> None:
    with pytest.raises(BundleError, match="onnxruntime cannot load the graph"):
        open_session(b"no graph")


def test_every_tensor_of_a_graph_is_kept() -> None:
    graph = model("a = Neg(input)\nb = Abs(a)\noutput = Add(a, b)")
    tensors = every_tensor(graph, FEEDS[0])
    assert set(tensors) == {"a", "b", "output"}
    assert tensors["a"].tolist() == [-1, -2, -3]
    assert [value.name for value in graph.graph.output] == ["output"]


@pytest.mark.parametrize(
    ("bar", "io", "expected"),
    [
        (Tolerance(max_abs=1e-4, max_steps=1), "float32", MetricLimit("max", 1e-4)),
        (Tolerance(max_steps=1), "uint8", MetricLimit("max", 1)),
        (HALF_TOLERANCE, "float32", MetricLimit("quantile", 2 / 255)),
        (Tolerance(psnr=40), "float32", MetricLimit("mean", 0.01)),
    ],
)
def test_a_bar_is_said_in_polygraphys_terms(
    bar: Tolerance, io: str, expected: MetricLimit
) -> None:
    found = metric_limit(bar, io)
    assert found.statistic == expected.statistic
    assert math.isclose(found.limit, expected.limit)
