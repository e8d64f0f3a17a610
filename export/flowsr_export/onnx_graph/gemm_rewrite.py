"""Rewrite float32 matrix products for compute capability 7.5.

TensorRT for RTX 1.7 refuses them on such GPUs: "FP32 GEMM is not supported". It accepts
convolutions, and it fuses sums of elementwise products without storing the products.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from flowsr_runtime.errors import LintError

__all__ = ["without_float32_gemm"]

RANK = 2  # of a plain product


def without_float32_gemm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace every float32 Gemm and MatMul by equivalent operators.

    A product with weights on the left becomes a 1x1 convolution. A product of two results
    (resizing) becomes an elementwise product and a sum.

    Args:
        model: A deployed graph; not changed.

    Returns:
        A copy without float32 Gemm and MatMul. The nodes that multiply keep their names.

    Raises:
        LintError: If a product has attributes that no deployed graph uses.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    ranks, types = _inferred(model)
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        wide = node.op_type in ("Gemm", "MatMul") and types[node.input[0]] == TensorProto.FLOAT
        if not wide:
            nodes.append(node)
            continue
        if node.op_type == "Gemm":
            _check(node, constants)
            nodes.extend(_convolution(node, copy.graph))
        else:
            nodes.extend(_sum(node, ranks, copy.graph))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in copy.graph.initializer if tensor.name in read]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


def _inferred(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Infer the rank and type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        ranks[value.name] = len(value.type.tensor_type.shape.dim)
        types[value.name] = value.type.tensor_type.elem_type
    return ranks, types


def _check(node: NodeProto, constants: Container[str]) -> None:
    """Refuse a Gemm that is not a linear layer, X Wᵀ + b with a stored W."""
    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 1}
    given = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **values}
    faults = [f"{name} is {given[name]}" for name in plain if given[name] != plain[name]]
    if node.input[1] not in constants:
        faults.append(f"{node.input[1]} is not stored")
    if faults:
        raise LintError(
            f"{node.op_type} {node.name} cannot be rewritten for compute capability 7.5: "
            f"{faults[0]}"
        )


def _convolution(node: NodeProto, graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Express X (M, K) @ Wᵀ (K, N) + b as a 1x1 convolution over M positions."""
    rows, stored_name, *bias = node.input
    prefix = node.name or node.output[0]
    stored = next(tensor for tensor in graph.initializer if tensor.name == stored_name)
    weight = numpy_helper.to_array(stored)[:, :, None, None]
    ends = _constant(graph, f"{prefix}_ends", np.array([0, 3]))
    kernel = _constant(graph, f"{prefix}_kernel", np.ascontiguousarray(weight))
    columns, wide, result, product = (
        f"{prefix}_{part}" for part in ("columns", "wide", "result", "product")
    )
    yield helper.make_node("Transpose", [rows], [columns], name=columns, perm=[1, 0])
    yield helper.make_node("Unsqueeze", [columns, ends], [wide], name=f"{prefix}_unsqueeze")
    yield helper.make_node("Conv", [wide, kernel, *bias], [result], name=prefix)
    yield helper.make_node("Squeeze", [result, ends], [product], name=f"{prefix}_squeeze")
    yield helper.make_node("Transpose", [product], node.output, name=product, perm=[1, 0])


def _sum(node: NodeProto, ranks: dict[str, int], graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Express A (…, m, k) @ B (…, k, n) or B (k,) as a sum over k of elementwise products."""
    left, right = node.input
    prefix = node.name or node.output[0]
    product, axis = f"{prefix}_products", -1
    if ranks[right] >= RANK:
        last = _constant(graph, f"{prefix}_last", np.array([-1]))
        third = _constant(graph, f"{prefix}_third", np.array([-3]))
        rows, columns = f"{prefix}_rows", f"{prefix}_columns"
        yield helper.make_node("Unsqueeze", [left, last], [rows], name=rows)
        yield helper.make_node("Unsqueeze", [right, third], [columns], name=columns)
        left, right, axis = rows, columns, -2
    summed = _constant(graph, f"{prefix}_axis", np.array([axis]))
    yield helper.make_node("Mul", [left, right], [product], name=f"{prefix}_multiply")
    yield helper.make_node("ReduceSum", [product, summed], node.output, name=prefix, keepdims=0)


def _constant(graph: onnx.GraphProto, name: str, values: NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name
