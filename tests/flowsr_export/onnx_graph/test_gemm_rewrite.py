"""The graph without float32 products computes the same."""

from typing import Any

import numpy as np
import onnx
import onnx.checker
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from flowsr_export.onnx_graph.gemm_rewrite import without_float32_gemm
from flowsr_runtime import Bundle, Window
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.errors import LintError
from tests.flowsr_export.conftest import Exported
from tests.stand_in import tensor

# Float32 sums in another order.
SAME = 2e-5
RNG = np.random.default_rng(0)


def graph(node: NodeProto, weights: dict[str, Any], inputs: dict[str, Any]) -> ModelProto:
    made = helper.make_graph(
        [node],
        "products",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in inputs.items()
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(made, opset_imports=opset, ir_version=9)


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


PRODUCTS: dict[str, tuple[NodeProto, dict[str, Any], dict[str, Any]]] = {
    "weights": (
        helper.make_node("Gemm", ["x", "w"], ["output"], name="mm", transB=1),
        {"w": floats(5, 7)},
        {"x": [11, 7]},
    ),
    "weights and a bias": (
        helper.make_node("Gemm", ["x", "w", "b"], ["output"], name="mm", alpha=1.0, transB=1),
        {"w": floats(5, 7), "b": floats(5)},
        {"x": [11, 7]},
    ),
    "weights and a vector": (
        helper.make_node("MatMul", ["w", "x"], ["output"], name="mv"),
        {"w": floats(5, 7)},
        {"x": [7]},
    ),
    "a matrix and pictures": (
        helper.make_node("MatMul", ["y", "x"], ["output"], name="rows"),
        {},
        {"y": [5, 7], "x": [2, 3, 7, 11]},
    ),
    "pictures and a matrix": (
        helper.make_node("MatMul", ["x", "y"], ["output"], name="columns"),
        {},
        {"x": [2, 3, 7, 11], "y": [11, 13]},
    ),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_a_product_is_the_same_in_another_way(case: str) -> None:
    node, weights, inputs = PRODUCTS[case]
    model = graph(node, weights, inputs)
    rewritten = without_float32_gemm(model)
    feeds = {name: floats(*shape) for name, shape in inputs.items()}
    expected, found = (ReferenceEvaluator(m).run(None, feeds) for m in (model, rewritten))
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=SAME)
    assert {n.op_type for n in rewritten.graph.node} & {"Gemm", "MatMul"} == set()


def test_the_node_that_multiplies_keeps_its_name() -> None:
    node, weights, inputs = PRODUCTS["weights and a bias"]
    rewritten = without_float32_gemm(graph(node, weights, inputs))
    assert [n.name for n in rewritten.graph.node if n.op_type == "Conv"] == ["mm"]


def test_weights_that_nothing_reads_are_gone() -> None:
    node, weights, inputs = PRODUCTS["weights"]
    rewritten = without_float32_gemm(graph(node, weights, inputs))
    assert "w" not in {tensor.name for tensor in rewritten.graph.initializer}


def test_a_product_in_half_stays() -> None:
    node, weights, inputs = PRODUCTS["weights"]
    model = graph(node, weights, inputs)
    half = numpy_helper.from_array(floats(5, 7).astype(np.float16), "w")
    model.graph.initializer[0].CopyFrom(half)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert without_float32_gemm(model) == model


@pytest.mark.parametrize(
    ("node", "rule"),
    [
        (helper.make_node("Gemm", ["x", "w"], ["output"], name="mm"), "transB is 0"),
        (
            helper.make_node("Gemm", ["x", "w"], ["output"], name="mm", transB=1, alpha=2.0),
            r"alpha is 2\.0",
        ),
        (
            helper.make_node("Gemm", ["w", "x"], ["output"], name="mm", transB=1),
            "x is not stored",
        ),
    ],
    ids=["transposed", "scaled", "two inputs"],
)
def test_a_form_that_no_deployed_graph_has_is_refused(node: NodeProto, rule: str) -> None:
    with pytest.raises(LintError, match=rf"Gemm mm .* {rule}"):
        without_float32_gemm(graph(node, {"w": floats(7, 7)}, {"x": [7, 7]}))


def test_the_deployed_graph_is_the_same_in_another_way(exported: Exported) -> None:
    model = onnx.load_from_string(Bundle.open(exported.bundle).model_bytes())
    rewritten = without_float32_gemm(model)
    onnx.checker.check_model(rewritten, full_check=True)
    lr, size = (17, 22), (44, 61)
    feeds = {
        "input": tensor(*lr).numpy(),
        "geometry": Window.whole(lr, size).geometry(),
    }
    outputs = []
    for each in (model, rewritten):
        session = OnnxRuntimeSession(
            each.SerializeToString(), provider="cpu", device=0, threads=1, name="model"
        )
        outputs.append(session.run(feeds))
        session.close()
    np.testing.assert_allclose(outputs[1], outputs[0], atol=SAME)
