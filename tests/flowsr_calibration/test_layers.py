import numpy as np
import onnx
import pytest
from onnx import ModelProto

from flowsr_calibration.layers import _block, blocks_of, layers_of, summands_of
from flowsr_calibration.onnx_graph import OnnxGraph
from flowsr_runtime import embedded_bundle


def test_the_flow_and_geometry_are_never_found(model: ModelProto) -> None:
    found = layers_of(model)
    assert [layer.node for layer in found] == [
        *("head", "inner", "outer", "cosine", "sine"),
        *("first", "second", "patches"),
    ]
    assert {layer.kind for layer in found} == {"Conv", "Gemm"}


def test_a_product_reads_pixels_as_rows(model: ModelProto) -> None:
    by_name = {layer.node: layer for layer in layers_of(model)}
    assert [by_name[name].input for name in ("first", "patches")] == ["cosine_rows", "hidden"]
    assert (by_name["first"].bias, by_name["second"].bias) == ("conditioner.bias", None)


def test_two_layers_whose_sum_alone_is_read_are_summands(model: ModelProto) -> None:
    graph = OnnxGraph(model)
    by_output = {layer.output: layer for layer in layers_of(model)}
    both = summands_of(graph, by_output, "both")
    assert [layer.node for layer in both] == ["first", "second"]
    assert summands_of(graph, by_output, "patches") == (by_output["patches"],)
    assert summands_of(graph, by_output, "features") == ()  # "head" is no layer's alone


def test_layers_make_up_blocks_in_the_order_of_a_run(model: ModelProto) -> None:
    blocks = blocks_of(layers_of(model))
    assert {name: len(layers) for name, layers in blocks.items()} == {
        "encoder.head.0": 1,
        "encoder.body.0": 2,
        "tables.0": 1,
        "tables.1": 1,
        "conditioner.first": 2,
        "conditioner.last": 1,
    }


@pytest.mark.parametrize(
    ("weight", "block"),
    [
        ("encoder.body.3.body.0.weight", "encoder.body.3"),
        (
            "prior.prior.down_layers.1.maxpool_conv.1.double_conv.3.weight",
            "prior.prior.down_layers.1",
        ),
        ("prior.body.inc.double_conv.0.weight", "prior.body.inc"),
        ("prior.input_proj.conv5.weight", "prior.input_proj"),
        ("prior.lr_proj.2.conv1.weight", "prior.lr_proj.2"),
        ("prior.prior.outc.conv.weight", "prior.prior.outc.conv"),
        ("levels.0.chunks.2.nets.middle.weight", "levels.0.chunks.2"),
        ("srflow.encoder.blocks.4.dense.2.conv3.weight", "encoder.blocks.4"),
        (
            "prior.branches.1.unet.downs.0.maxpool_conv.1.double_conv.0.weight",
            "prior.branches.1.unet.downs.0",
        ),
        ("prior.branches.0.input_proj.conv2.weight", "prior.branches.0.input_proj"),
        ("linf.conditioner.sine", "conditioner.first"),
        ("conditioner.last_weights.17", "conditioner.last"),
        ("conditioner.weights.1", "conditioner.weights.1"),
    ],
)
def test_a_block_is_named_by_its_weights(weight: str, block: str) -> None:
    assert _block(weight) == block


def test_the_built_in_network_is_found_whole() -> None:
    model = onnx.load(embedded_bundle() / "model.fp32.onnx")
    found = layers_of(model)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert [layer.kind for layer in found].count("Conv") == convolutions == 44
    assert len(blocks_of(found)) == 27


def test_a_graph_without_named_weights_has_no_layers(model: ModelProto) -> None:
    for node in model.graph.node:
        node.input[:] = [
            name.replace("encoder", "x").replace("tables", "x") for name in node.input
        ]
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.replace("encoder", "x").replace("tables", "x")
    assert {layer.kind for layer in layers_of(model)} == {"Gemm"}
    assert np.all([layer.block.startswith("conditioner") for layer in layers_of(model)])
