from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from flowsr_calibration.collect import TensorTap
from flowsr_calibration.layers import Layer, layers_of
from flowsr_calibration.onnx_graph import OnnxGraph
from flowsr_calibration.quantize import QuantizationForm, quantize_layers, tensors_of
from flowsr_export.onnx_graph.lint import lint
from tests.flowsr_calibration.graphs import photograph

FEEDS = {"input": (photograph(0, 24) / np.float32(255)).transpose(2, 0, 1)[None]}
ALL = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
NONE = ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def ranges_of(model: ModelProto) -> dict[str, float]:
    names = tensors_of(model, layers_of(model))
    seen = TensorTap(model, names, 1).run(FEEDS)
    return {name: float(np.abs(values).max()) for name, values in seen.items()}


def run(model: ModelProto, level: ort.GraphOptimizationLevel = ALL) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    output: NDArray[np.float32] = session.run(None, FEEDS)[0]
    return output


def kernels(model: ModelProto, folder: Path) -> list[str]:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def decibels(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(-10 * np.log10(max(np.mean((a - b) ** 2), 1e-20)))


def made(model: ModelProto, form: QuantizationForm | None = None) -> ModelProto:
    return quantize_layers(
        model, layers_of(model), ranges_of(model), form or QuantizationForm()
    )


def test_nothing_quantized_is_the_same_function(model: ModelProto) -> None:
    np.testing.assert_array_equal(
        run(quantize_layers(model, [], {}, QuantizationForm())), run(model)
    )


def test_every_layer_becomes_an_integer_kernel(model: ModelProto, tmp_path: Path) -> None:
    found = kernels(made(model), tmp_path)
    assert (found.count("QLinearConv"), found.count("QGemm")) == (5, 3)
    assert (found.count("Conv"), found.count("QLinearLeakyRelu")) == (0, 1)
    assert found.count("Gemm") == 1  # the flow's


@pytest.mark.parametrize(
    "form", [QuantizationForm(), QuantizationForm(per_tensor=True), QuantizationForm("fp8")]
)
def test_eight_bits_are_close_to_float(model: ModelProto, form: QuantizationForm) -> None:
    assert 30 < decibels(run(made(model, form)), run(model)) < 70


@pytest.fixture(params=["int8", "fp8"])
def graph(model: ModelProto, request: pytest.FixtureRequest) -> ModelProto:
    """The network in each eight-bit type."""
    return made(model, QuantizationForm(request.param))


def test_kernels_compute_what_the_file_says(graph: ModelProto) -> None:
    assert decibels(run(graph, ALL), run(graph, NONE)) > 55


def test_products_do_not_saturate_sixteen_bits(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith("0.weight") and "tables" in tensor.name:
            full = np.full(tuple(tensor.dims), 0.05, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(full, tensor.name))
    graph = made(model)
    assert decibels(run(graph, ALL), run(graph, NONE)) > 55


def test_a_weight_has_a_step_for_each_output_or_one(model: ModelProto) -> None:
    each, one = (
        OnnxGraph(made(model)),
        OnnxGraph(made(model, QuantizationForm(per_tensor=True))),
    )
    name = "encoder.body.0.body.0.weight.steps"
    assert (each.value(name).shape, one.value(name).shape) == ((8,), ())


def test_the_file_keeps_the_rules_of_deployed_graphs(graph: ModelProto) -> None:
    onnx.checker.check_model(graph, full_check=True)
    assert lint(graph, linf=False) == []


def test_zero_points_are_zero_and_biases_stay_float(graph: ModelProto) -> None:
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    zeros = [t for name, t in stored.items() if name.endswith((".zeros", "zero.code"))]
    biases = [t for name, t in stored.items() if name.endswith((".bias", "bias.row"))]
    assert {byte for tensor in zeros for byte in tensor.raw_data} == {0}
    assert {tensor.data_type for tensor in biases} == {TensorProto.FLOAT}


def test_each_quantized_tensor_has_one_reader(model: ModelProto) -> None:
    graph = OnnxGraph(made(model))
    codes = [node.output[0] for node in graph.nodes if node.op_type == "QuantizeLinear"]
    assert len(codes) == 13
    assert {len(graph.consumers[name]) for name in codes} == {1}


def test_pairs_on_one_tensor_have_steps_one_float_apart(model: ModelProto) -> None:
    graph = OnnxGraph(made(model))
    first, second = (graph.value(f"features{part}.step") for part in ("", ".1"))
    assert second == np.nextafter(first, np.float32(np.inf))


def test_a_relu_cuts_off_what_needs_no_codes(model: ModelProto) -> None:
    ranges = ranges_of(model)
    graph = OnnxGraph(made(model))
    step = float(graph.value("inner.raw.step"))
    assert step == pytest.approx(ranges["inner_relu"] / 127, rel=1e-6)


def test_some_layers_can_stay_float(model: ModelProto, tmp_path: Path) -> None:
    def is_kept(layer: Layer) -> bool:
        return layer.block in ("encoder.body.0", "conditioner.first")

    kept = [layer for layer in layers_of(model) if is_kept(layer)]
    graph = quantize_layers(model, kept, ranges_of(model), QuantizationForm())
    found = kernels(graph, tmp_path)
    assert (found.count("QLinearConv"), found.count("QGemm")) == (2, 2)
    assert decibels(run(graph), run(model)) > 30


def test_a_convolution_in_groups_has_a_step_for_each_output(tmp_path: Path) -> None:
    rng, name = np.random.default_rng(0), "levels.0.chunks.0.nets.middle"
    constants = {
        f"{name}.weight": rng.normal(0, 0.3, (6, 3, 3, 3)).astype(np.float32),
        f"{name}.bias": np.zeros(6, np.float32),
    }
    nodes = [
        helper.make_node("Concat", ["input", "input"], ["twice"], name="twice", axis=1),
        helper.make_node(
            "Conv",
            ["twice", *constants],
            ["grouped"],
            name="grouped",
            group=2,
            pads=[1, 1, 1, 1],
        ),
        helper.make_node("Mul", ["grouped", "grouped"], ["output"], name="square"),
    ]
    graph = helper.make_graph(
        nodes,
        "groups",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    quantized_graph = made(model)
    assert OnnxGraph(quantized_graph).value(f"{name}.weight.steps").shape == (6,)
    assert "QLinearConv" in kernels(quantized_graph, tmp_path)
    assert decibels(run(quantized_graph), run(model)) > 35
