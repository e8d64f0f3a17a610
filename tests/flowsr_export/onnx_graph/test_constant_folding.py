"""Folding keeps the function of a graph and stores what it computes compactly."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from flowsr_export.onnx_graph.constant_folding import fold_constants

node = helper.make_node


def shifted_rows() -> ModelProto:
    """Return a graph that reads rows at two positions, made from a range, and adds them."""
    constants = {
        "first": np.int64(0),
        "count": np.int64(40),
        "step": np.int64(1),
        "two": np.int64(2),
        "matrix": np.eye(40, dtype=np.float32),
        "same": np.eye(40, dtype=np.float32),
    }
    nodes = [
        node("Range", ["first", "count", "step"], ["rows"]),
        node("Div", ["rows", "two"], ["half"]),
        node("Gather", ["input", "half"], ["doubled"], axis=2),
        node("Gather", ["input", "rows"], ["plain"], axis=2),
        node("MatMul", ["doubled", "matrix"], ["left"]),
        node("MatMul", ["plain", "same"], ["right"]),
        node("Add", ["left", "right"], ["output"]),
    ]
    picture = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 40, 40])
        for name in ("input", "output")
    ]
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "rows", picture[:1], picture[1:], weights)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    return model


def run(model: ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString())
    picture = np.random.default_rng(0).random((1, 3, 40, 40), np.float32)
    result: np.ndarray = session.run(None, {"input": picture})[0]
    return result


@pytest.mark.parametrize("largest", [1 << 20, 10])
def test_a_folded_graph_computes_the_same(largest: int) -> None:
    model = shifted_rows()
    np.testing.assert_array_equal(run(fold_constants(model, largest)), run(model))


def test_a_range_becomes_indices_of_32_bits() -> None:
    folded = fold_constants(shifted_rows())
    assert [one.op_type for one in folded.graph.node] == [
        *("Gather", "Gather", "MatMul", "MatMul", "Add")
    ]
    types = [tensor.data_type for tensor in folded.graph.initializer]
    assert sorted(types) == [TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT32]


def test_the_graph_that_is_folded_is_not_changed() -> None:
    model = shifted_rows()
    before = model.SerializeToString()
    fold_constants(model)
    assert model.SerializeToString() == before
