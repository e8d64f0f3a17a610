"""Find the first node at which two ONNX models of one network diverge."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_export.onnx_graph.stages import OTHER, stages_of
from flowsr_export.parity.session_comparison import every_tensor, require_polygraphy
from flowsr_runtime import Bundle, InputError, ParityError, UsageError, Window, output_size
from flowsr_runtime.bundle.directory import embedded_bundle

__all__ = ["TOLERANCES", "Divergence", "Difference", "Graph", "first_divergence", "graphs_of"]

# Largest accepted difference relative to a tensor's largest value, by the least precise type of
# both models. Float32 models differ by the order of sums. The other limits are above every node
# of a sound graph: the worst of the built-in model are 0.03 in fp16 and 0.22 in int8.
TOLERANCES = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.4, "int8": 0.5, "fp8": 0.5}
LR = (20, 24)  # low-resolution size (h, w) of the photograph; even and not square
SCALE = Fraction("2.7")
PLAIN_SCALE = 4  # scale for a model without a bundle; every graph with geometry takes it
# Nodes that only change a tensor's type; one of the models may lack them.
PLUMBING = {"Cast", "CastLike", "DequantizeLinear", "Identity", "QuantizeLinear"}
TINY = 1e-6  # a tensor below this is rounded zero
OUTPUT = "output"


@dataclass(frozen=True)
class Graph:
    """An ONNX model to compare.

    Attributes:
        name: Name in messages.
        model: The graph.
    """

    name: str
    model: ModelProto


@dataclass(frozen=True)
class Difference:
    """Difference between the outputs of a node in the two models.

    Attributes:
        node: Name of the node in the first model.
        kind: Operator.
        tensor: Output in the first model.
        other: Output in the second model.
        stage: Stage of the model, by the weights that the node depends on.
        share: Largest difference relative to the first tensor's largest value; infinite if
            integers differ or a value is not finite.
    """

    node: str
    kind: str
    tensor: str
    other: str
    stage: str
    share: float


@dataclass(frozen=True)
class Divergence:
    """Result of comparing two models node by node.

    Attributes:
        first: First node, in the order of the first model, above the tolerance.
        output: Difference of the graphs' outputs.
        stages: Largest share by stage, in the order of a run.
        tolerance: Largest accepted share.
        compared: Number of compared tensors.
        skipped: Number of nodes in the first model without a counterpart of the same shape.
    """

    first: Difference | None
    output: Difference
    stages: dict[str, float]
    tolerance: float
    compared: int
    skipped: int


def graphs_of(
    target: Path | None, other: str, precision: str
) -> tuple[Graph, Graph, Bundle | None]:
    """Load the two models to compare.

    Args:
        target: A bundle, None for the built-in one, or an ONNX file.
        other: A precision of the bundle, or an ONNX file.
        precision: Precision of the bundle's graph that is the reference.

    Returns:
        Reference graph, other graph, and the bundle if `target` is one.

    Raises:
        UsageError: If `other` is neither a precision nor an ONNX file.
        BundleError: If the bundle is damaged or lacks a precision.
    """
    if target is not None and target.is_file():
        return _graph_of_file(target), _graph_of_file(Path(other)), None
    bundle = Bundle.open(embedded_bundle() if target is None else target)
    first = _graph_of_bundle(bundle, precision)
    if Path(other).is_file():
        return first, _graph_of_file(Path(other)), bundle
    if other not in TOLERANCES and Path(other).suffix:
        raise InputError(f"{other} does not exist")
    if other not in TOLERANCES:
        raise UsageError(
            f"the other model must be a precision ({', '.join(TOLERANCES)}) or an ONNX file, "
            f"got {other!r}",
            option="locate",
        )
    return first, _graph_of_bundle(bundle, other), bundle


def first_divergence(
    first: Graph, other: Graph, bundle: Bundle | None = None, tolerance: float | None = None
) -> Divergence:
    """Run two models of one network on a photograph and compare the output of every node.

    Nodes are aligned by operator, by the names of their weights and by order; casts and
    quantizers are skipped. Both models run without graph optimizations.

    Args:
        first: Reference model.
        other: Model to compare with it.
        bundle: Describes the inputs of the graph; without it, only `input` and `geometry` are
            known.
        tolerance: Accepted share of a tensor's largest value; None for `TOLERANCES`.

    Returns:
        The first node above the tolerance, if there is one, and statistics by stage.

    Raises:
        ParityError: If the outputs cannot be compared.
        UsageError: If the models have different inputs.
        ImportError: If Polygraphy is not installed.
    """
    require_polygraphy()
    names = [{value.name for value in graph.model.graph.input} for graph in (first, other)]
    if names[0] != names[1]:
        raise UsageError(
            f"both models must have the same inputs, got {sorted(names[0])} in {first.name} "
            f"and {sorted(names[1])} in {other.name}"
        )
    if tolerance is None:
        tolerance = max(TOLERANCES[_precision(graph.model)] for graph in (first, other))
    feeds = _plain_feeds(first) if bundle is None else _bundle_feeds(bundle)
    mine, theirs = (every_tensor(graph.model, feeds) for graph in (first, other))
    stages = stages_of(first.model)
    compared = list(_differences(first.model, other.model, mine, theirs, stages))
    if not compared or compared[-1].tensor != OUTPUT:
        raise ParityError(f"the outputs of {first.name} and {other.name} cannot be compared")
    by_stage: dict[str, float] = {}
    for difference in compared:
        stage = difference.stage
        by_stage[stage] = max(by_stage.get(stage, 0.0), difference.share)
    above = (difference for difference in compared if not difference.share <= tolerance)
    names_compared = {difference.node for difference in compared}
    nodes = (node for node in first.model.graph.node if node.op_type not in PLUMBING)
    return Divergence(
        first=next(above, None),
        output=compared[-1],
        stages=by_stage,
        tolerance=tolerance,
        compared=len(compared),
        skipped=sum((node.name or node.output[0]) not in names_compared for node in nodes),
    )


def aligned(first: ModelProto, other: ModelProto) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Pair equivalent nodes of two graphs, in the order of the first."""
    nodes = [
        [node for node in model.graph.node if node.op_type not in PLUMBING]
        for model in (first, other)
    ]
    mine, theirs = (_keys(model, own) for model, own in zip((first, other), nodes, strict=True))
    matcher = SequenceMatcher(a=mine, b=theirs, autojunk=False)
    for a, b, count in matcher.get_matching_blocks():
        for i in range(count):
            yield nodes[0][a + i], nodes[1][b + i]


def _differences(
    first: ModelProto,
    other: ModelProto,
    mine: Mapping[str, NDArray[Any]],
    theirs: Mapping[str, NDArray[Any]],
    stages: Mapping[str, str],
) -> Iterator[Difference]:
    """Compare the outputs of aligned nodes; the graph's output comes last."""
    last = None
    for node, counterpart in aligned(first, other):
        for tensor, name in zip(node.output, counterpart.output, strict=False):
            if not (tensor in mine and name in theirs):
                continue
            a, b = mine[tensor], theirs[name]
            if a.shape == b.shape and tensor != OUTPUT:
                stage = stages.get(tensor, OTHER)
                title = node.name or tensor
                yield Difference(title, node.op_type, tensor, name, stage, _share(a, b))
    makers = {name: node for node in first.graph.node for name in node.output}
    if OUTPUT in mine and OUTPUT in theirs and mine[OUTPUT].shape == theirs[OUTPUT].shape:
        node = makers[OUTPUT]
        stage, share = stages.get(OUTPUT, OTHER), _share(mine[OUTPUT], theirs[OUTPUT])
        last = Difference(node.name or OUTPUT, node.op_type, OUTPUT, OUTPUT, stage, share)
    if last is not None:
        yield last


def _share(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the relative difference of two tensors; see `Difference.share`."""
    if a.size == 0:
        return 0.0
    if all(x.dtype in (np.int32, np.int64, np.bool_) for x in (a, b)):  # indices, and sizes
        return 0.0 if np.array_equal(a, b) else math.inf
    wide, narrow = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(narrow).all()):
        return math.inf
    return float(np.abs(wide - narrow).max() / max(float(np.abs(wide).max()), TINY))


def _keys(model: ModelProto, nodes: Sequence[NodeProto]) -> list[tuple[str, ...]]:
    """Return each node's operator and the names of its weights behind casts."""
    weights = {t.name for t in model.graph.initializer if "." in t.name}
    behind = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type in PLUMBING and node.input and node.output
    }

    def source(name: str) -> str:
        while name in behind:
            name = behind[name]
        return name

    return [
        (
            node.op_type,
            *(_bare(source(name)) for name in node.input if source(name) in weights),
        )
        for node in nodes
    ]


def _bare(weight: str) -> str:
    """Return the name of a weight before quantization."""
    return weight.removesuffix("_quantized").removesuffix(".codes")


def _precision(model: ModelProto) -> str:
    """Return the least precise type of a graph, a key of `TOLERANCES`."""
    types = {t.data_type for t in model.graph.initializer}
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "fp8" if TensorProto.FLOAT8E4M3FN in types else "int8"
    if TensorProto.BFLOAT16 in types:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in types else "fp32"


def _bundle_feeds(bundle: Bundle) -> dict[str, NDArray[Any]]:
    scale = bundle.manifest.scale or SCALE
    size = (output_size(LR[0], scale), output_size(LR[1], scale))
    return _typed(graph_feeds(bundle.manifest, Case(LR, size)), bundle.manifest.io)


def _plain_feeds(graph: Graph) -> dict[str, NDArray[Any]]:
    """Make the inputs of a model without a bundle."""
    inputs = {value.name: value for value in graph.model.graph.input}
    if not {"input"} <= set(inputs) <= {"input", "geometry"}:
        raise UsageError(
            f"{graph.name} has the inputs {sorted(inputs)}; give the bundle that describes them"
        )
    size = (LR[0] * PLAIN_SCALE, LR[1] * PLAIN_SCALE)
    feeds: dict[str, NDArray[Any]] = {"input": sample_pictures(Case(LR, size))}
    if "geometry" in inputs:
        feeds["geometry"] = Window.whole(LR, size).geometry()
    dtype = inputs["input"].type.tensor_type.elem_type
    return _typed(feeds, "uint8" if dtype == TensorProto.UINT8 else "float32")


def _typed(feeds: dict[str, NDArray[Any]], io: str) -> dict[str, NDArray[Any]]:
    if io == "uint8":
        feeds["input"] = np.rint(feeds["input"] * 255).astype(np.uint8)
    return feeds


def _graph_of_bundle(bundle: Bundle, precision: str) -> Graph:
    name = bundle.model_name(precision)
    return Graph(name, onnx.load_from_string(bundle.read(name)))


def _graph_of_file(path: Path) -> Graph:
    try:
        content = path.read_bytes()
        onnx.checker.check_model(content)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not a valid ONNX file: {reason}") from error
    return Graph(str(path), onnx.load_from_string(content))
