"""Audits of the precision of engines."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from flowsr_export.engine.builder import Settings, build_plan
from flowsr_export.engine.layers import Layer, layers_from_log, layers_of
from flowsr_export.engine.library import Library
from flowsr_export.engine.precision_audit import (
    PrecisionAudit,
    audit,
    least_share,
    require_precision,
    work_at,
)
from flowsr_export.onnx_graph.multiply_adds import MacCount, Product
from flowsr_runtime.bundle.engine_store import Profile, Range
from flowsr_runtime.errors import PrecisionError
from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.layer_log import LOGGED
from tests.doubles.trt_module import fake_tensorrt

PROFILE: Profile = {"input": Range((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))}
# 1x1 convolutions: 3·1·64 multiply-adds in float32 and 1·19·64 in float16.
SHARE = 19 / 22


def half_graph() -> Any:
    """Two convolutions, the larger one in float16."""
    weights: dict[str, NDArray[Any]] = {
        "w": np.ones((1, 3, 1, 1), np.float32),
        "v": np.ones((19, 1, 1, 1), np.float16),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["a"], name="conv_wide"),
            helper.make_node("Cast", ["a"], ["half"], name="to_half", to=TensorProto.FLOAT16),
            helper.make_node("Conv", ["half", "v"], ["b"], name="conv_half"),
            helper.make_node("Cast", ["b"], ["output"], name="back", to=TensorProto.FLOAT),
        ],
        "half",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 19, "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


WORK = work_at(half_graph(), PROFILE)


def truth(
    share: float, engine: dict[str, float] | None = None, least: float = 0.95
) -> PrecisionAudit:
    shares = {"fp16": share, "fp32": 1 - share}
    return PrecisionAudit("fp16", least, shares, engine, shares, None)


def test_shares_are_those_of_the_graph_and_of_the_engines_layers() -> None:
    found = audit(WORK, layers_from_log(LOGGED), "fp16", 0.8)
    assert found.onnx == pytest.approx({"fp16": SHARE, "fp32": 1 - SHARE})
    assert found.engine == found.onnx == found.everything
    assert found.layers == {"fp16": 1, "fp32": 1}
    assert found.least == 0.8


def test_an_engine_that_computes_wider_is_found() -> None:
    wide = layers_from_log(LOGGED.replace("Datatype: Half", "Datatype: Float"))
    found = audit(WORK, wide, "fp16", 0.8)
    assert found.onnx["fp16"] == pytest.approx(SHARE)
    assert found.engine == {"fp32": 1.0}


def test_a_node_that_no_layer_names_is_unknown() -> None:
    layers = [Layer("fp32", ("conv_wide",))]
    found = audit(WORK, layers, "fp16", 0.8)
    assert found.engine == pytest.approx({"fp32": 1 - SHARE, "unknown": SHARE})


def test_without_layers_nothing_is_claimed_of_the_engine() -> None:
    found = audit(WORK, [], "fp16", 0.8)
    assert (found.engine, found.layers) == (None, None)


@pytest.mark.parametrize("variant", ["tensorrt-10", "tensorrt-11"])
def test_the_inspector_of_an_engine_agrees_with_its_file(variant: str) -> None:
    trt: Any = fake_tensorrt(variant, FakeCuda(Gpu()))
    library, model = Library(trt, "tensorrt", trt.__version__), half_graph()
    built = build_plan(library, model.SerializeToString(), [PROFILE], Settings())
    found = audit(WORK, layers_of(trt, built, on_device=True), "fp16", 0.8)
    assert found.engine == found.onnx


def test_each_family_has_its_bar() -> None:
    assert least_share("fp16", "linf-lp") == least_share("bf16", "linf-lp") == 0.95
    assert least_share("fp16", "srflow-lp") == 0.9
    assert least_share("fp32", "srflow-lp") == 1


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_of_eight_bits_an_engine_must_have_what_its_file_has(precision: str) -> None:
    work = MacCount(
        100, {}, {}, 0, {"a": Product(60, precision, True), "b": Product(40, "fp32", True)}
    )
    assert least_share(precision, "linf-lp", work) == 0.6
    assert least_share(precision, "linf-lp") == 1.0


def test_enough_in_half_is_accepted() -> None:
    require_precision(truth(0.97, {"fp16": 0.96, "fp32": 0.04}))
    require_precision(truth(0.95))
    require_precision(truth(0.97, {"unknown": 1.0}))
    with pytest.raises(PrecisionError, match="at least 95% are needed"):
        require_precision(truth(0.9499))


def test_too_little_in_half_is_refused() -> None:
    line = r"ONNX file has 94.0% of its .* in fp16, at least 95% are needed \(it has 94.0% fp16"
    with pytest.raises(PrecisionError, match=line):
        require_precision(truth(0.94))


def test_an_engine_that_lost_the_precision_is_refused() -> None:
    with pytest.raises(PrecisionError, match=r"engine has 0.0% of its .* in fp16"):
        require_precision(truth(0.97, {"fp32": 1.0}))


def test_float32_is_float32_all_through() -> None:
    found = audit(WORK, [], "fp32", 1.0)
    with pytest.raises(PrecisionError, match=r"at least 100% are needed"):
        require_precision(found)
