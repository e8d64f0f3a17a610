"""Rules for deployed graphs, checked on the ONNX model before it is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
)
from onnx.external_data_helper import uses_external_data

from flowsr_runtime.errors import LintError

__all__ = [
    "GEOMETRY_RULES",
    "LARGEST_FILE",
    "RULES",
    "SIZE_RULES",
    "Finding",
    "lint",
    "require_clean",
]

Origin = Literal["weight", "geometry", "picture"]
Problem = tuple[str, str]

OPSETS = (16, 19)  # at 20 GridSample says "linear", which TensorRT takes for nearest
BF16_OPSET = 22  # before, no convolution takes bfloat16
STANDARD = {"", "ai.onnx"}
RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
INVERSES = {
    "Cholesky",
    "Det",
    "Inverse",
    "LU",
    "LinearSolve",
    "MatrixInverse",
    "Solve",
    "TriangularSolve",
}
# Operators that an unfolded inverse or norm of a weight consists of.
FOLDABLE = {"Div", "Einsum", "Gemm", "MatMul", "Pow", "Reciprocal", "Sqrt"}
CONTROL_FLOW = {"If", "Loop", "Scan"}
# Leading operands that hold values; the others hold shapes or indices.
VALUE_OPERANDS = {
    "ConstantOfShape": 0,
    "Expand": 1,
    "Gather": 1,
    "GatherElements": 1,
    "GatherND": 1,
    "Pad": 1,
    "Reshape": 1,
    "Resize": 1,
    "Slice": 1,
    "Split": 1,
    "Squeeze": 1,
    "Tile": 1,
    "Unsqueeze": 1,
}
LAYOUT = {"Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
PRODUCTS = {"Gemm", "MatMul"}
VECTOR_PRODUCTS = {"Gemm": 2, "MatMul": 2, "Einsum": None}  # operands that are multiplied
ROUNDINGS = {"Ceil", "Floor", "Mod", "Round"}
SIZES = {"Range", "Shape", "Size"}
# Operators that size-fixed graphs have no use for; ncnn and NPU compilers lack them.
SHAPE_OPERATORS = {*SIZES, "ConstantOfShape", "NonZero"}
MOST_DIMENSIONS = 4  # of a tensor in ncnn and in most NPU compilers
LARGEST_FILE = 64_000_000
"""Bytes of the largest size-fixed graph."""
INTEGERS = {TensorProto.INT32, TensorProto.INT64}
HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
FLOATS = {*HALVES, TensorProto.FLOAT, TensorProto.DOUBLE}
# float64 is allowed here because the rule no-float64 refuses it.
EXACT = {*INTEGERS, TensorProto.BOOL, TensorProto.FLOAT, TensorProto.DOUBLE}


@dataclass(frozen=True)
class Finding:
    """A place where a graph breaks a rule.

    Attributes:
        rule: Name of the rule.
        place: Node with its operator, tensor, or part of the file.
        remedy: Instruction for the author of the graph.
    """

    rule: str
    place: str
    remedy: str

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.rule} at {self.place}: {self.remedy}"


def lint(model: ModelProto, *, linf: bool = True, size_fixed: bool = False) -> list[Finding]:
    """Check a graph against all rules.

    Args:
        model: A model that passes the ONNX checker.
        linf: Whether the graph computes its geometry, as LINF's does.
        size_fixed: Whether the sizes of the graph's inputs are numbers.

    Returns:
        Findings, ordered by rule and then by node; empty for a clean graph.
    """
    rules = {**RULES, **GEOMETRY_RULES} if linf else RULES
    rules = {**rules, **SIZE_RULES} if size_fixed else rules
    graph = _Graph(model)
    return [
        Finding(name, place, remedy)
        for name, rule in rules.items()
        for place, remedy in rule(graph)
    ]


def require_clean(model: ModelProto, *, linf: bool = True, size_fixed: bool = False) -> None:
    """Refuse a graph that breaks a rule.

    Args:
        model: A model that passes the ONNX checker.
        linf: Whether the graph computes its geometry, as LINF's does.
        size_fixed: Whether the sizes of the graph's inputs are numbers.

    Raises:
        LintError: If there is a finding; the message shows the first and counts the others.
    """
    findings = lint(model, linf=linf, size_fixed=size_fixed)
    if findings:
        more = f"; {len(findings) - 1} more" if len(findings) > 1 else ""
        raise LintError(f"graph breaks {findings[0]}{more}")


class _Graph:
    """A model with the facts that the rules need: types, origins and edges.

    A tensor's origin is `picture` when any of its values comes from a picture or a latent,
    else `geometry` when any comes from the `geometry` input, a shape or a Range, else
    `weight`. Values count, not shapes: features read by a computed index are `picture`.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.every_node = list(_nodes(model))
        inputs = {value.name for value in model.graph.input}
        # An initializer that is also an input can be replaced at run time.
        self.constants = {tensor.name for tensor in model.graph.initializer} - inputs
        self.producers = {name: node for node in self.nodes for name in node.output}

    @cached_property
    def values(self) -> list[ValueInfoProto]:
        """Types and shapes of the tensors, inferred from the inputs and weights alone."""
        bare = ModelProto()
        bare.CopyFrom(self.model)
        del bare.graph.value_info[:]
        for value in bare.graph.output:
            value.type.tensor_type.elem_type = TensorProto.UNDEFINED
        graph, values = bare.graph, list(bare.graph.input)
        # If inference fails, types stay unknown and the rule `typed` reports it.
        with suppress(onnx.shape_inference.InferenceError):
            graph = onnx.shape_inference.infer_shapes(bare).graph
            values = [*graph.input, *graph.output, *graph.value_info]
        return values

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type of every tensor."""
        types = {value.name: value.type.tensor_type.elem_type for value in self.values}
        types.update({one.name: one.data_type for one in self.model.graph.initializer})
        return {name: dtype for name, dtype in types.items() if dtype}

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Number of dimensions of every tensor with a known one."""
        tensors = {value.name: value.type.tensor_type for value in self.values}
        ranks = {name: len(t.shape.dim) for name, t in tensors.items() if t.HasField("shape")}
        return ranks | {one.name: len(one.dims) for one in self.model.graph.initializer}

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Origin of the values of every tensor."""
        origins: dict[str, Origin] = dict.fromkeys(self.constants, "weight")
        for value in self.model.graph.input:
            origins[value.name] = "geometry" if value.name == "geometry" else "picture"
        for node in self.nodes:
            sources = {origins.get(name, "picture") for name in _operands(node)}
            origin: Origin = "weight"
            if node.op_type in SIZES:
                origin = "geometry"
            elif "picture" in sources:
                origin = "picture"
            elif "geometry" in sources:
                origin = "geometry"
            origins.update(dict.fromkeys(node.output, origin))
        return origins

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """Nodes that read each tensor."""
        consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        return consumers

    @cached_property
    def phase(self) -> set[str]:
        """Tensors between the geometry and a sine or cosine, both ends included."""
        reached = {name for name, origin in self.origins.items() if origin == "geometry"}
        for node in self.nodes:
            if not reached.isdisjoint(_operands(node)):
                reached.update(node.output)
        feeding: set[str] = set()
        for node in reversed(self.nodes):
            if node.op_type in {"Cos", "Sin"} or not feeding.isdisjoint(node.output):
                feeding.update(_operands(node))
        return reached & feeding


def _no_random(graph: _Graph) -> Iterator[Problem]:
    for node in graph.every_node:
        training = node.op_type == "Dropout" and len(node.input) > 2 and bool(node.input[2])
        if training or node.op_type in RANDOM:
            yield (
                _label(node),
                "make the noise an input of the graph; backends draw different random numbers",
            )


def _no_grid_sample(graph: _Graph) -> Iterator[Problem]:
    for node in graph.every_node:
        if node.op_type == "GridSample":
            yield _label(node), "read rows with Gather or interpolate with MatMul"


def _no_float64(graph: _Graph) -> Iterator[Problem]:
    for name, dtype in graph.types.items():
        if dtype == TensorProto.DOUBLE:
            yield f"tensor {name!r}", "compute in float64 at export and keep float32"


def _no_unfolded_inverse(graph: _Graph) -> Iterator[Problem]:
    """Refuse inverses and arithmetic between weights, which an inverse decomposes into."""
    for node in graph.every_node:
        if node.op_type in INVERSES:
            yield _label(node), "fold the inverse at export, in float64"
    for node in graph.nodes:
        weights = node.input and all(graph.origins.get(n) == "weight" for n in node.input if n)
        if weights and node.op_type in FOLDABLE:
            yield _label(node), "fold this arithmetic on weights at export, in float64"


def _standard_domain(graph: _Graph) -> Iterator[Problem]:
    for node in graph.every_node:
        if node.domain not in STANDARD:
            yield _label(node), f"replace the operator from domain {node.domain!r}"


def _no_control_flow(graph: _Graph) -> Iterator[Problem]:
    """Refuse subgraphs: the rules on values do not look inside them."""
    for node in graph.every_node:
        if node.op_type in CONTROL_FLOW:
            yield _label(node), "rewrite it without branches and loops"


def _typed(graph: _Graph) -> Iterator[Problem]:
    """Refuse nodes at which type inference stops: the rules on types need it."""
    for node in graph.nodes:
        stops = any(name and name not in graph.types for name in node.output)
        before = all(name in graph.types for name in node.input if name)
        if stops and before and node.domain in STANDARD:
            yield _label(node), "use an operator with a result type that ONNX can infer"


def _self_contained(graph: _Graph) -> Iterator[Problem]:
    tensors = list(graph.model.graph.initializer)
    for node in graph.every_node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                tensors.append(attribute.t)
            tensors.extend(attribute.tensors)
    for tensor in tensors:
        if uses_external_data(tensor):
            yield f"tensor {tensor.name!r}", "save the weights inside the ONNX file"


def _opset(graph: _Graph) -> Iterator[Problem]:
    low, high = OPSETS
    versions = [o.version for o in graph.model.opset_import if o.domain in STANDARD]
    weights = [n.input[1] for n in graph.every_node if n.op_type in {"Conv", "ConvTranspose"}]
    if any(graph.types.get(name) == TensorProto.BFLOAT16 for name in weights):
        low = high = BF16_OPSET
    if not versions or not all(low <= version <= high for version in versions):
        got = ", ".join(map(str, versions)) or "none"
        yield "opset_import", f"export with an opset from {low} to {high}, got {got}"


def _static_weights(graph: _Graph) -> Iterator[Problem]:
    for node in graph.every_node:
        if node.op_type in {"Conv", "ConvTranspose"}:
            source = graph.producers.get(node.input[1])
            # A quantized weight is an initializer behind its DequantizeLinear.
            quantized = source is not None and source.op_type == "DequantizeLinear"
            name = source.input[0] if source is not None and quantized else node.input[1]
            if name not in graph.constants:
                yield _label(node), "make the weight an initializer that is not an input"


def _no_half_geometry(graph: _Graph) -> Iterator[Problem]:
    """Refuse geometry and phase that are not float32 or integers.

    There is one exception: float32 weights may be cast for the product, of matrices or
    elements, that applies them to features, with nothing but layout changes between. The phase
    is everything between the geometry and a sine or cosine; features join it in float32.
    """
    for name in dict.fromkeys(name for node in graph.nodes for name in node.output):
        dtype = graph.types.get(name)
        if dtype is None or dtype in EXACT:
            continue
        node = graph.producers[name]
        if name in graph.phase:
            yield _label(node), "keep the Fourier phase float32 until after the sine and cosine"
        elif graph.origins[name] == "geometry" and not _cast_for_product(graph, node):
            yield (
                _label(node),
                "keep geometry float32 or int64; cast at the product that reads it",
            )
    for node in graph.nodes:
        half_wave = node.op_type in {"Cos", "Sin"} and graph.types.get(node.input[0]) in HALVES
        if half_wave and node.input[0] not in graph.phase:
            yield _label(node), "compute sines and cosines in float32, then cast"


def _cast_for_product(graph: _Graph, node: NodeProto) -> bool:
    """Whether a half-precision geometry tensor is a float32 one, cast where it is used."""
    readers = {reader.op_type for reader in graph.consumers.get(node.output[0], [])}
    cast = node.op_type == "Cast" and graph.types.get(node.input[0]) == TensorProto.FLOAT
    used = bool(readers) and readers <= LAYOUT | PRODUCTS | {"Mul"}
    return used and (cast or node.op_type in LAYOUT)


def _integer_indices(graph: _Graph) -> Iterator[Problem]:
    """Refuse indices and sizes that pass through floats.

    float32 is exact for integers up to 2^24 only, and the division of a backend may round
    wrongly: if 6 / 3 gives 1.9999999, the index becomes 1.
    """
    for node in graph.nodes:
        source = graph.types.get(node.input[0]) if node.input else None
        if source not in FLOATS or graph.origins.get(node.input[0]) != "geometry":
            continue
        target = graph.types.get(node.output[0])
        to_integer = node.op_type == "Cast" and target not in {*FLOATS, TensorProto.BOOL}
        if to_integer or node.op_type in ROUNDINGS:
            yield _label(node), "divide and round in int64"


def _no_vector_products(graph: _Graph) -> Iterator[Problem]:
    """Refuse products with a vector, which ONNX Runtime for the web lacks on WebGPU."""
    for node in graph.nodes:
        if node.op_type in VECTOR_PRODUCTS:
            factors = node.input[: VECTOR_PRODUCTS[node.op_type]]
            if any(graph.ranks.get(name) == 1 for name in factors):
                yield _label(node), "multiply and sum, or give the vector a second dimension"


def _sizes_are_numbers(graph: _Graph) -> Iterator[Problem]:
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        shape = value.type.tensor_type.shape
        if not all(dim.dim_value > 0 for dim in shape.dim):
            yield f"tensor {value.name!r}", "give every dimension of it a number"


def _no_shape_operators(graph: _Graph) -> Iterator[Problem]:
    """Refuse operators that compute shapes, and shapes that are computed."""
    for node in graph.nodes:
        if node.op_type in SHAPE_OPERATORS:
            yield _label(node), "compute the shape at export"
        elif node.op_type in VALUE_OPERANDS and not node.op_type.startswith("Gather"):
            shapes = [name for name in node.input[VALUE_OPERANDS[node.op_type] :] if name]
            if not graph.constants.issuperset(shapes):
                yield _label(node), "make the shape or the positions that it reads a constant"


def _four_dimensions(graph: _Graph) -> Iterator[Problem]:
    for name, rank in graph.ranks.items():
        if rank > MOST_DIMENSIONS:
            yield (
                f"tensor {name!r}",
                f"go by steps of at most {MOST_DIMENSIONS} dimensions, got {rank}",
            )


def _file_size(graph: _Graph) -> Iterator[Problem]:
    size = graph.model.ByteSize()
    if size > LARGEST_FILE:
        yield (
            "the file",
            f"give a smaller size or half precision: it must have at most "
            f"{LARGEST_FILE / 1e6:g} MB, got {size / 1e6:.1f} MB",
        )


RULES: dict[str, Callable[[_Graph], Iterator[Problem]]] = {
    "opset": _opset,
    "standard-domain": _standard_domain,
    "self-contained": _self_contained,
    "no-control-flow": _no_control_flow,
    "typed": _typed,
    "static-weights": _static_weights,
    "no-random": _no_random,
    "no-grid-sample": _no_grid_sample,
    "no-float64": _no_float64,
    "no-unfolded-inverse": _no_unfolded_inverse,
    "no-vector-products": _no_vector_products,
}
GEOMETRY_RULES: dict[str, Callable[[_Graph], Iterator[Problem]]] = {
    "integer-indices": _integer_indices,
    "no-half-geometry": _no_half_geometry,
}
SIZE_RULES: dict[str, Callable[[_Graph], Iterator[Problem]]] = {
    "sizes-are-numbers": _sizes_are_numbers,
    "no-shape-operators": _no_shape_operators,
    "four-dimensions": _four_dimensions,
    "file-size": _file_size,
}


def _operands(node: NodeProto) -> list[str]:
    """Inputs that hold values rather than shapes, indices or what chooses between values."""
    count = VALUE_OPERANDS.get(node.op_type, len(node.input))
    first = 1 if node.op_type == "Where" else 0
    return [name for name in node.input[first:count] if name]


def _label(node: NodeProto) -> str:
    return f"node {node.name or node.output[0]!r} ({node.op_type})"


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Yield every node, including those of subgraphs and local functions."""
    waiting: list[GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for graph in waiting:
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                waiting.extend([attribute.g] if attribute.HasField("g") else attribute.graphs)
