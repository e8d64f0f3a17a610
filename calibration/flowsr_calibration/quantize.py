"""Insert QuantizeLinear and DequantizeLinear around layers, in a form for every library.

One file serves ONNX Runtime and TensorRT: symmetric codes (zero points are zero), one step size
for each output of a weight, biases in float32. ONNX Runtime computes in integers only under
these conditions, which were found by inspecting its optimized graphs:

- A quantized tensor has one reader. With two readers neither becomes an integer kernel, and
  equal pairs are merged, so the steps of several pairs on one tensor differ by one float32 ulp.
- The output of a convolution is quantized too.
- A Relu between two quantized layers is a LeakyRelu of slope zero, which has an integer kernel.
- A product has pixels as rows and no bias input, and its output is float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from flowsr_calibration.codes import EightBitFormat, EightBits, codes_of, zero_code
from flowsr_calibration.layers import Layer
from flowsr_calibration.onnx_graph import OnnxGraph, with_nodes
from flowsr_calibration.ranges import weight_scales

__all__ = ["QuantizationForm", "quantize_layers", "tensors_of"]

UNSEEN = np.float32(1e-30)  # float32 values of an image do not change when it is added


@dataclass(frozen=True)
class QuantizationForm:
    """Options of the quantization.

    Attributes:
        type: "int8" or "fp8".
        per_tensor: One step for a whole weight instead of one for each output.
    """

    type: EightBits = "int8"
    per_tensor: bool = False


def tensors_of(model: ModelProto, layers: Sequence[Layer]) -> list[str]:
    """Return the distinct tensors whose ranges `quantize_layers` needs, in order of execution.

    Args:
        model: The float32 graph.
        layers: Layers that may be quantized.
    """
    graph = OnnxGraph(model)
    names: dict[str, None] = {}
    for layer in layers:
        names[layer.input] = None
        if layer.kind == "Conv":
            names[layer.output] = None
            relu = _relu(graph, layer)
            if relu is not None:
                names[relu.output[0]] = None
    return list(names)


def quantize_layers(
    model: ModelProto,
    layers: Sequence[Layer],
    ranges: Mapping[str, float],
    form: QuantizationForm,
) -> ModelProto:
    """Quantize layers.

    Args:
        model: The float32 graph; not changed.
        layers: Layers to quantize; none gives a copy.
        ranges: Magnitude at which each tensor of `tensors_of` is clipped.
        form: Options.

    Returns:
        A graph that differs by rounding only.
    """
    writer = _Writer(model, layers, ranges, form)
    for node in writer.graph.nodes:
        layer = writer.chosen.get(node.name or node.output[0])
        if layer is None:
            writer.nodes.append(writer.relu(node))
        elif layer.kind == "Conv":
            writer.convolution(node, layer)
        else:
            writer.product(layer)
    opset = writer.codes.opset if layers else 0
    return with_nodes(model, writer.nodes, writer.constants, writer.stored, opset=opset)


@dataclass
class _Writer:
    """The nodes and constants of the quantized graph so far."""

    model: ModelProto
    layers: Sequence[Layer]
    ranges: Mapping[str, float]
    form: QuantizationForm
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    stored: list[TensorProto] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.graph = OnnxGraph(self.model)
        self.codes: EightBitFormat = codes_of(self.form.type)
        self.chosen = {layer.node: layer for layer in self.layers}
        self.inputs = {layer.input for layer in self.layers}
        if self.layers:
            self.stored.append(zero_code("zero.code", self.codes))

    def convolution(self, node: NodeProto, layer: Layer) -> None:
        """Write a convolution of codes, with a quantized output if integer kernels need it."""
        source = self.pair(layer.input, self.ranges[layer.input])
        weight = self.weight(layer)
        if self.codes.name != "int8":
            self.emit(node, [source, weight, *node.input[2:]], [layer.output])
            return
        relu = _relu(self.graph, layer)
        # Values that a Relu cuts off need no codes.
        reach = self.ranges[layer.output if relu is None else relu.output[0]]
        raw = f"{layer.output}.raw"
        self.emit(node, [source, weight, *node.input[2:]], [raw])
        if self.graph.sole_reader(layer.output) is not None and layer.output not in self.inputs:
            self.pair(raw, reach, result=layer.output)
            return
        # ONNX Runtime duplicates the pair for each reader and merges consecutive pairs; adding
        # a negligible number keeps one reader of the codes.
        self.constants["unseen"] = np.asarray(UNSEEN)
        self.add("Add", [self.pair(raw, reach), "unseen"], layer.output)

    def product(self, layer: Layer) -> None:
        """Write a product of codes; a float32 bias is added to its result."""
        source = self.pair(layer.input, self.ranges[layer.input])
        result = layer.output if layer.bias is None else f"{layer.output}.product"
        self.add("Gemm", [source, self.weight(layer)], result, transB=1)
        if layer.bias is not None:
            self.add("Add", [result, layer.bias], layer.output)

    def weight(self, layer: Layer) -> str:
        """Store a weight's codes and write its DequantizeLinear."""
        values = self.graph.value(layer.weight)
        per_tensor = self.form.per_tensor
        steps = weight_scales(values, self.codes.most, per_tensor=per_tensor)
        along = steps.astype(np.float64).reshape(-1, *([1] * (values.ndim - 1)))
        code, step, zero = (f"{layer.weight}.{part}" for part in ("codes", "steps", "zeros"))
        content = self.codes.encode(values.astype(np.float64), along)
        dtype = self.codes.onnx_type
        self.stored.append(helper.make_tensor(code, dtype, values.shape, content, raw=True))
        result = f"{layer.weight}.rounded"
        if per_tensor:
            self.constants[step] = np.asarray(steps[0])
            self.add("DequantizeLinear", [code, step, "zero.code"], result)
        else:
            self.constants[step] = steps
            self.stored.append(zero_code(zero, self.codes, len(steps)))
            self.add("DequantizeLinear", [code, step, zero], result, axis=0)
        return result

    def pair(self, name: str, reach: float, *, result: str | None = None) -> str:
        """Write the two nodes that round a tensor to its codes and back."""
        count = self.used[name]
        self.used[name] += 1
        step = np.float32(reach / self.codes.most)
        for _ in range(count):
            step = np.nextafter(step, np.float32(np.inf))
        own = f"{name}.{count}" if count else name
        self.constants[f"{own}.step"] = np.asarray(step)
        code, back = f"{own}.code", result or f"{own}.coded"
        self.add("QuantizeLinear", [name, f"{own}.step", "zero.code"], code)
        self.add("DequantizeLinear", [code, f"{own}.step", "zero.code"], back)
        return back

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> None:
        """Write a new node."""
        name = f"eight_bit_{output}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))

    def emit(self, node: NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write a node with other tensors."""
        copy = NodeProto()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.extend(outputs)
        self.nodes.append(copy)

    def relu(self, node: NodeProto) -> NodeProto:
        """Return a node, or a LeakyRelu of slope zero for a Relu before codes.

        For int8 this applies between convolutions. Before FP8 codes ONNX Runtime 1.32 drops
        every Relu, because it takes the zero point for the smallest code.
        """
        if node.op_type != "Relu" or node.output[0] not in self.inputs:
            return node
        before = self.graph.producers.get(node.input[0])
        layer = None if before is None else self.chosen.get(before.name or before.output[0])
        if self.codes.name == "int8" and (layer is None or layer.kind != "Conv"):
            return node
        leaky = NodeProto()
        leaky.CopyFrom(node)
        leaky.op_type = "LeakyRelu"
        leaky.attribute.append(helper.make_attribute("alpha", 0.0))
        return leaky


def _relu(graph: OnnxGraph, layer: Layer) -> NodeProto | None:
    """Return the Relu that is the only reader of a layer's output."""
    reader = graph.sole_reader(layer.output)
    return reader if reader is not None and reader.op_type == "Relu" else None
