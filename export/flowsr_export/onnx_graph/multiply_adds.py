"""Count the multiply-adds of a graph from its nodes and shapes, without running it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from flowsr_runtime.errors import ShapeError, UsageError

__all__ = ["Product", "MacCount", "count_macs", "per_pixel_and_patch"]

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TYPE_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8",
}
# Most elements of a tensor that is evaluated: sizes and pads, but no index lists or weights.
EVALUATED = 16
# Counted by `per_pixel_and_patch`: patches (rows, cols) and low-resolution pixels (h, w).
# Multiples of 8 and of 24, so that no level of a U-Net rounds up.
FITTED = (((32, 32), (48, 48)), ((64, 48), (48, 72)), ((72, 120), (96, 72)))


@dataclass(frozen=True)
class Product:
    """Multiply-adds of one node.

    Attributes:
        count: Number of multiply-adds.
        type: Data type of the operands.
        of_weights: Whether one operand is a weight.
    """

    count: int
    type: str
    of_weights: bool


@dataclass(frozen=True)
class MacCount:
    """Multiply-adds of one run.

    Attributes:
        total: Sum over all nodes.
        by_operator: Sums for Conv, ConvTranspose, Gemm and MatMul.
        by_type: Sums by data type of the operands: fp32, fp16, bf16, fp8, int8, other.
        between_results: Sum over products in which neither operand is a weight. In LINF these
            resize, and their number grows faster than the picture.
        by_node: Products by the name of the node, or of its output if it has none.
    """

    total: int
    by_operator: dict[str, int]
    by_type: dict[str, int]
    between_results: int
    by_node: dict[str, Product]

    def share(self, type_name: str) -> float:
        """Return the share of the multiply-adds in a data type, in [0, 1]."""
        return self.by_type.get(type_name, 0) / self.total if self.total else 0.0


def count_macs(
    model: ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, NDArray[Any]] | None = None,
) -> MacCount:
    """Count the multiply-adds of one run.

    Args:
        model: A graph that passes the lint. Biases and elementwise operators are not counted.
        shapes: Shape of each input that is not in `values`.
        values: Inputs that determine shapes, above all `geometry`.

    Returns:
        The exact count.

    Raises:
        ShapeError: If an input is missing or unknown, or a shape cannot be inferred.
    """
    values = values or {}
    names = {value.name for value in model.graph.input}
    if names != {*shapes, *values}:
        given = ", ".join(sorted({*shapes, *values})) or "none"
        raise ShapeError(f"inputs must be {', '.join(sorted(names))}, got {given}")
    inferred = _inferred(_skeleton(model, shapes, values))
    weights = {tensor.name for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    operators: Counter[str] = Counter()
    types: Counter[str] = Counter()
    nodes: dict[str, Product] = {}
    for node in model.graph.node:
        if node.op_type in OPERATORS:
            count = _product(node, inferred)
            operators[node.op_type] += count
            stored = [_stored(name, producers) for name in node.input[:2]]
            dtype = _type_name(node, stored, inferred)
            types[dtype] += count
            name = node.name or node.output[0]
            nodes[name] = Product(count, dtype, not weights.isdisjoint(stored))
    between = sum(product.count for product in nodes.values() if not product.of_weights)
    return MacCount(operators.total(), dict(operators), dict(types), between, nodes)


def per_pixel_and_patch(
    model: ModelProto, patch: int = 3, continued: int = 0
) -> tuple[float, float]:
    """Fit multiply-adds ≈ a · low-resolution pixels + b · patches, from three sizes.

    Products between results (the resizing matrices) are left out: they grow with the third
    power of the side. In the full edsr-baseline + unet at ×4 they are 1.0 % of the work for
    128x128 pixels and 4.1 % for 512x512, and more in a small network. At sizes for which a
    level of the U-Net rounds down, the fit is up to 0.4 % too high.

    Args:
        model: LINF graph for any scale.
        patch: Patch side p.
        continued: Rows and columns by which the encoder continues images of these sizes; they
            are counted as pixels.

    Returns:
        a and b.

    Raises:
        UsageError: If the graph has a fixed scale: its pixels and patches grow together.
    """
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    if "geometry" not in inputs:
        raise UsageError("graph must have the input geometry, got a graph of one scale")
    sizes, counts = [], []
    for (rows, cols), (h, w) in FITTED:
        out = (rows * patch, cols * patch)
        lr = h - continued, w - continued
        shapes = {"input": (1, 3, *lr)}
        if "latent" in inputs:
            width = inputs["latent"].shape.dim[1].dim_value
            shapes["latent"] = (1, width, rows, cols)
        geometry = np.array([*lr, *out, 0, 0, 0, 0, *out], np.int64)
        work = count_macs(model, shapes, {"geometry": geometry})
        sizes.append((h * w, rows * cols))
        counts.append(work.total - work.between_results)
    (a, b), *_ = np.linalg.lstsq(np.array(sizes, float), np.array(counts, float), rcond=None)
    return float(a), float(b)


@dataclass(frozen=True)
class _Tensor:
    """Inferred type and shape of a tensor; an unknown dimension is None."""

    type: int
    shape: tuple[int | None, ...] | None


def _skeleton(
    model: ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, NDArray[Any]],
) -> ModelProto:
    """Copy a graph with fixed input shapes, values as initializers and weights as inputs."""
    small = [t for t in model.graph.initializer if math.prod(t.dims) <= EVALUATED]
    large = [t for t in model.graph.initializer if math.prod(t.dims) > EVALUATED]
    inputs = [
        helper.make_tensor_value_info(v.name, v.type.tensor_type.elem_type, shapes[v.name])
        for v in model.graph.input
        if v.name in shapes
    ]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large]
    small += [numpy_helper.from_array(array, name) for name, array in values.items()]
    outputs = [
        helper.make_tensor_value_info(v.name, v.type.tensor_type.elem_type, None)
        for v in model.graph.output
    ]
    graph = helper.make_graph(list(model.graph.node), "sizes", inputs, outputs, small)
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _inferred(model: ModelProto) -> dict[str, _Tensor]:
    """Infer every shape by alternating shape inference and evaluation of small tensors.

    The data propagation of ONNX stops at a division, so sizes that are computed from
    `geometry` must be evaluated. A Shape node can be evaluated once its input's shape is known.
    """
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    while True:
        tensors = _tensors(onnx.shape_inference.infer_shapes(model, data_prop=True))
        waiting = []
        for node in model.graph.node:
            results = _evaluated(node, known, tensors, opsets)
            known.update(results)
            model.graph.initializer.extend(
                numpy_helper.from_array(array, name) for name, array in results.items()
            )
            if not results:
                waiting.append(node)
        if len(waiting) == len(model.graph.node):
            return tensors
        del model.graph.node[:]
        model.graph.node.extend(waiting)


def _evaluated(
    node: NodeProto,
    known: Mapping[str, NDArray[Any]],
    tensors: Mapping[str, _Tensor],
    opsets: Mapping[str, int],
) -> dict[str, NDArray[Any]]:
    """Return the values of a node's small results, nothing if they cannot be computed yet."""
    feeds = {name: known[name] for name in node.input if name in known}
    if node.op_type == "Shape":
        shape = _known_shape(node.input[0], tensors)
        if shape is None:
            return {}
        feeds = {node.input[0]: np.broadcast_to(np.float32(0), shape)}
    for name in node.output:
        shape = _known_shape(name, tensors)
        if shape is None or len(shape) > 1 or math.prod(shape) > EVALUATED:
            return {}
    if not all(name in feeds for name in node.input if name):
        return {}
    results = ReferenceEvaluator(node, opsets=dict(opsets)).run(None, feeds)
    return dict(zip(node.output, map(np.asarray, results), strict=True))


def _tensors(model: ModelProto) -> dict[str, _Tensor]:
    """Read the inferred types and shapes."""
    graph = model.graph
    tensors = {t.name: _Tensor(t.data_type, tuple(t.dims)) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        inferred = value.type.tensor_type
        shape = None
        if inferred.HasField("shape"):
            shape = tuple(
                d.dim_value if d.HasField("dim_value") else None for d in inferred.shape.dim
            )
        tensors[value.name] = _Tensor(inferred.elem_type, shape)
    return tensors


def _product(node: NodeProto, tensors: Mapping[str, _Tensor]) -> int:
    """Return the multiply-adds of one node."""
    left, right = (_shape(name, node, tensors) for name in node.input[:2])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    out = math.prod(_shape(node.output[0], node, tensors))
    if node.op_type == "Conv":
        return out * math.prod(right[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return out * left[0 if transposed else -1]


def _shape(name: str, node: NodeProto, tensors: Mapping[str, _Tensor]) -> tuple[int, ...]:
    shape = _known_shape(name, tensors)
    if shape is None:
        raise ShapeError(
            f"shape of {name!r} at node {node.name or node.output[0]!r} ({node.op_type}) "
            "cannot be inferred; give the values that determine it"
        )
    return shape


def _known_shape(name: str, tensors: Mapping[str, _Tensor]) -> tuple[int, ...] | None:
    """Return the shape of a tensor, None if a dimension is unknown."""
    tensor = tensors.get(name)
    if tensor is None or tensor.shape is None:
        return None
    shape = tuple(n for n in tensor.shape if n is not None)
    return shape if len(shape) == len(tensor.shape) else None


def _stored(name: str, producers: Mapping[str, NodeProto]) -> str:
    """Return the input of a DequantizeLinear, other names unchanged."""
    node = producers.get(name)
    if node is not None and node.op_type == "DequantizeLinear":
        return str(node.input[0])
    return name


def _type_name(node: NodeProto, stored: list[str], tensors: Mapping[str, _Tensor]) -> str:
    """Return the data type of a product: quantized only if both operands are stored so."""
    dtypes = {tensors[name].type for name in stored}
    dtype = dtypes.pop() if len(dtypes) == 1 else tensors[node.input[0]].type
    return TYPE_NAMES.get(dtype, "other")
