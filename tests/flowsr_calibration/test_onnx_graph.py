import numpy as np
from onnx import ModelProto, helper

from flowsr_calibration.onnx_graph import OnnxGraph, attribute, with_nodes


def test_a_tensor_with_one_reader_has_it_and_others_have_none(model: ModelProto) -> None:
    graph = OnnxGraph(model)
    reader = graph.sole_reader("inner")
    assert reader is not None
    assert (reader.op_type, graph.sole_reader("head"), graph.sole_reader("output")) == (
        "Relu",
        None,
        None,
    )


def test_attributes_are_numbers_and_lists() -> None:
    node = helper.make_node("Any", [], ["y"], f=0.5, i=3, many=[1, 2], floats=[0.5])
    found = [attribute(node, name) for name in ("f", "i", "many", "floats", "none")]
    assert found == [0.5, 3, [1, 2], [0.5], None]


def test_what_nothing_reads_is_dropped(model: ModelProto) -> None:
    extra = helper.make_node("Relu", ["head"], ["nowhere"], name="extra")
    made = with_nodes(model, [*model.graph.node, extra], {"unread": np.zeros(3)})
    assert [node.name for node in made.graph.node] == [n.name for n in model.graph.node]
    assert "unread" not in {tensor.name for tensor in made.graph.initializer}


def test_a_constant_is_replaced_in_the_copy_alone(model: ModelProto) -> None:
    made = with_nodes(
        model, model.graph.node, {"encoder.head.0.bias": np.full(8, 3.0, np.float32)}
    )
    assert OnnxGraph(made).value("encoder.head.0.bias")[0] == 3.0
    assert OnnxGraph(model).value("encoder.head.0.bias")[0] != 3.0


def test_an_operator_set_is_raised_and_never_lowered(model: ModelProto) -> None:
    for least, opset in ((13, 18), (19, 19)):
        assert with_nodes(model, [], {}, opset=least).opset_import[0].version == opset
