"""Bias correction: subtract the mean error of a quantized layer from its bias.

Each layer is measured alone, with its input from the float32 graph, because errors of earlier
layers must not be corrected twice (Nagel et al. 2019, arXiv 1906.04721, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from flowsr_calibration.codes import codes_of, zero_code
from flowsr_calibration.collect import TensorTap
from flowsr_calibration.layers import Layer, summands_of
from flowsr_calibration.onnx_graph import OnnxGraph, with_nodes
from flowsr_calibration.quantize import QuantizationForm
from flowsr_calibration.ranges import weight_scales

__all__ = ["Correction", "bias_corrections", "with_corrections"]


@dataclass(frozen=True)
class Correction:
    """A change of a stored bias for a quantized layer.

    Attributes:
        bias: Name of the bias.
        added: Values to add, of the shape of the bias.
    """

    bias: str
    added: NDArray[np.float64]


def bias_corrections(
    model: ModelProto,
    layers: Sequence[Layer],
    ranges: Mapping[str, float],
    form: QuantizationForm,
    feeds: Iterable[Mapping[str, NDArray[Any]]],
    threads: int | None = None,
) -> dict[str, Correction]:
    """Measure the mean error that the rounding of each layer causes in its output.

    Args:
        model: The float32 graph.
        layers: Layers that may be quantized.
        ranges: Magnitude at which each layer's input is clipped, by tensor.
        form: Form of the quantization.
        feeds: Inputs of the graph for some crops, at least one.
        threads: CPU threads, None for all cores.

    Returns:
        Corrections by layer, without layers for which neither they nor their sum have a bias.
    """
    graph = OnnxGraph(model)
    twins = _errors_graph(model, layers, ranges, form)
    tap = TensorTap(twins, [_error(layer) for layer in layers], threads)
    sums: dict[str, NDArray[np.float64]] = {}
    count = 0
    for inputs in feeds:
        count += 1
        for name, error in tap.run(inputs).items():
            sums[name] = sums.get(name, 0.0) + error.astype(np.float64)
    corrections = {}
    for layer in layers:
        bias = _owner(graph, layers, layer)
        if bias is not None:
            mean = sums[_error(layer)] / count
            corrections[layer.node] = Correction(bias, mean.reshape(graph.value(bias).shape))
    return corrections


def with_corrections(
    model: ModelProto, layers: Sequence[Layer], corrections: Mapping[str, Correction]
) -> ModelProto:
    """Copy a graph with corrected biases for layers that will be quantized.

    Args:
        model: The float32 graph.
        layers: Layers that will be quantized.
        corrections: Corrections by layer; those of other layers are ignored.
    """
    graph = OnnxGraph(model)
    biases: dict[str, NDArray[np.float64]] = {}
    for layer in layers:
        correction = corrections.get(layer.node)
        if correction is not None:
            name = correction.bias
            before = biases.get(name, graph.value(name).astype(np.float64))
            biases[name] = before + correction.added
    changed = {name: value.astype(np.float32) for name, value in biases.items()}
    return with_nodes(model, model.graph.node, changed)


def _errors_graph(
    model: ModelProto,
    layers: Sequence[Layer],
    ranges: Mapping[str, float],
    form: QuantizationForm,
) -> ModelProto:
    """Return the float32 graph with a rounded twin of each layer and their mean difference."""
    graph, codes = OnnxGraph(model), codes_of(form.type)
    chosen = {layer.node: layer for layer in layers}
    nodes: list[NodeProto] = []
    constants: dict[str, NDArray[Any]] = {
        "axes.Conv": np.array([0, 2, 3]),
        "axes.Gemm": np.array([0]),
    }
    for node in graph.nodes:
        nodes.append(node)
        layer = chosen.get(node.name or node.output[0])
        if layer is None:
            continue
        weight = graph.value(layer.weight).astype(np.float64)
        steps = weight_scales(weight.astype(np.float32), codes.most, per_tensor=form.per_tensor)
        along = steps.astype(np.float64).reshape(-1, *([1] * (weight.ndim - 1)))
        constants[f"{layer.weight}.twin"] = codes.rounded(weight, along).astype(np.float32)
        constants[f"{layer.node}.step"] = np.float32(ranges[layer.input] / codes.most)
        nodes += _twin(node, layer)
    wider = ModelProto()
    wider.CopyFrom(model)
    wider.graph.output.extend(
        helper.make_tensor_value_info(_error(layer), TensorProto.FLOAT, None)
        for layer in layers
    )
    zero = zero_code("bias.zero", codes)
    return with_nodes(wider, nodes, constants, [zero], opset=codes.opset)


def _twin(node: NodeProto, layer: Layer) -> list[NodeProto]:
    """Return a layer with rounded values on the same input, and the mean of the difference."""
    code, coded, result, less = (
        f"{layer.node}.{part}" for part in ("code", "coded", "twin", "less")
    )
    step = [f"{layer.node}.step", "bias.zero"]
    twin = NodeProto()
    twin.CopyFrom(node)
    twin.name, twin.output[0] = result, result
    twin.input[:2] = [coded, f"{layer.weight}.twin"]
    axes, error = f"axes.{layer.kind}", _error(layer)
    return [
        helper.make_node("QuantizeLinear", [layer.input, *step], [code], name=code),
        helper.make_node("DequantizeLinear", [code, *step], [coded], name=coded),
        twin,
        helper.make_node("Sub", [layer.output, result], [less], name=less),
        helper.make_node("ReduceMean", [less, axes], [error], name=error, keepdims=0),
    ]


def _error(layer: Layer) -> str:
    return f"{layer.node}.error"


def _owner(graph: OnnxGraph, layers: Sequence[Layer], layer: Layer) -> str | None:
    """Return the bias that a layer's correction changes: its own, or that of its sum."""
    if layer.bias is not None:
        return layer.bias
    reader = graph.sole_reader(layer.output)
    if reader is None:
        return None
    by_output = {other.output: other for other in layers}
    summands = summands_of(graph, by_output, reader.output[0])
    return next((other.bias for other in summands if other.bias is not None), None)
