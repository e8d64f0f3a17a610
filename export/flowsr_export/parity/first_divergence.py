"""Where two ONNX files of one network part: the first node whose output leaves tolerance."""

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
from flowsr_runtime import Bundle, ParityError, UsageError, Window, output_size
from flowsr_runtime.bundle.directory import embedded_bundle

__all__ = ["TOLERANCES", "Divergence", "Difference", "Graph", "first_divergence", "graphs_of"]

# Largest accepted share of a tensor's largest value, by the least precise type of both files.
# Float32 files of one network differ by the order of sums. Half and eight bits: what no node of
# a sound graph reaches; the built-in model's worst are at 0.03 in fp16 and 0.22 in int8.
TOLERANCES = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.4, "int8": 0.5, "fp8": 0.5}
LR = (20, 24)  # of the photograph that both files enlarge; not square, not odd
SCALE = Fraction("2.7")
PLAIN_SCALE = 4  # of a file without a bundle: every graph of a geometry takes it
# Nodes that change a tensor's type and no more: there are some in one file alone.
PLUMBING = {"Cast", "CastLike", "DequantizeLinear", "Identity", "QuantizeLinear"}
TINY = 1e-6  # a tensor below this is the rounding of zero
OUTPUT = "output"


@dataclass(frozen=True)
class Graph:
    """An ONNX file that is compared.

    Attributes:
        name: As messages name it.
        model: The graph.
    """

    name: str
    model: ModelProto


@dataclass(frozen=True)
class Difference:
    """How far the outputs of a node are apart in the two files.

    Attributes:
        node: Its name in the first file.
        kind: Its operator.
        tensor: Its output in the first file.
        other: Its output in the second.
        stage: Stage of the model by the weights that the node depends on.
        share: Largest difference over the first tensor's largest value; infinite if integers
            differ, or where one of both is no finite number.
    """

    node: str
    kind: str
    tensor: str
    other: str
    stage: str
    share: float


@dataclass(frozen=True)
class Divergence:
    """What was found of two files.

    Attributes:
        first: The first node, in the order of the first file, that leaves the tolerance.
        output: The graph's output.
        stages: Largest share by stage, in the order of a run.
        tolerance: The share that was accepted.
        compared: Tensors that were compared.
        skipped: Nodes of the first file without a counterpart of the same shape.
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
    """Find the two files.

    Args:
        target: A bundle, None for the built-in one, or an ONNX file.
        other: A precision of the bundle, or an ONNX file.
        precision: Of the bundle's graph that is compared with.

    Returns:
        The graph that is compared with, the other, and the bundle if there is one.

    Raises:
        UsageError: If `other` is neither.
        BundleError: If the bundle is damaged or lacks a precision.
    """
    if target is not None and target.is_file():
        return _graph_of_file(target), _graph_of_file(Path(other)), None
    bundle = Bundle.open(embedded_bundle() if target is None else target)
    first = _graph_of_bundle(bundle, precision)
    if Path(other).is_file():
        return first, _graph_of_file(Path(other)), bundle
    if other not in TOLERANCES:
        raise UsageError(
            f"--bisect must be a precision ({', '.join(TOLERANCES)}) or an ONNX file, got "
            f"{other!r}"
        )
    return first, _graph_of_bundle(bundle, other), bundle


def first_divergence(
    first: Graph, other: Graph, bundle: Bundle | None = None, tolerance: float | None = None
) -> Divergence:
    """Run two files of one network on a photograph and compare every node's output.

    Nodes are aligned by operator, by the names of the weights that they read and by order;
    casts and quantisers are passed over. Each file runs as it says, not optimised.

    Args:
        first: What is compared with.
        other: What may leave it.
        bundle: Says what the graph's inputs mean; without it a file may take `input` and
            `geometry` alone.
        tolerance: Accepted share of a tensor's largest value; None for `TOLERANCES`.

    Returns:
        The first node that leaves the tolerance, if one does.

    Raises:
        ParityError: If the outputs cannot be compared, or nothing else can.
        UsageError: If the files do not take the same inputs.
        ImportError: If Polygraphy is not installed.
    """
    require_polygraphy()
    names = [{value.name for value in graph.model.graph.input} for graph in (first, other)]
    if names[0] != names[1]:
        raise UsageError(
            f"{first.name} takes {sorted(names[0])} and {other.name} {sorted(names[1])}: they "
            "are not files of one graph"
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
    for found in compared:
        by_stage[found.stage] = max(by_stage.get(found.stage, 0.0), found.share)
    leaving = (found for found in compared if not found.share <= tolerance)
    named = {found.node for found in compared}
    nodes = (node for node in first.model.graph.node if node.op_type not in PLUMBING)
    return Divergence(
        first=next(leaving, None),
        output=compared[-1],
        stages=by_stage,
        tolerance=tolerance,
        compared=len(compared),
        skipped=sum((node.name or node.output[0]) not in named for node in nodes),
    )


def aligned(first: ModelProto, other: ModelProto) -> Iterator[tuple[NodeProto, NodeProto]]:
    """Pair the nodes of two graphs that do the same, in the order of the first."""
    nodes = [
        [node for node in model.graph.node if node.op_type not in PLUMBING]
        for model in (first, other)
    ]
    mine, theirs = (_keys(model, own) for model, own in zip((first, other), nodes, strict=True))
    matcher = SequenceMatcher(a=mine, b=theirs, autojunk=False)
    for begin, there, count in matcher.get_matching_blocks():
        for i in range(count):
            yield nodes[0][begin + i], nodes[1][there + i]


def _differences(
    first: ModelProto,
    other: ModelProto,
    mine: Mapping[str, NDArray[Any]],
    theirs: Mapping[str, NDArray[Any]],
    stages: Mapping[str, str],
) -> Iterator[Difference]:
    """Compare what the aligned nodes give; the graph's output comes last."""
    last = None
    for node, there in aligned(first, other):
        for tensor, name in zip(node.output, there.output, strict=False):
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
    """Largest difference over the largest value of the first; see `Difference.share`."""
    if a.size == 0:
        return 0.0
    if all(x.dtype in (np.int32, np.int64, np.bool_) for x in (a, b)):  # indices, and sizes
        return 0.0 if np.array_equal(a, b) else math.inf
    wide, narrow = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(narrow).all()):
        return math.inf
    return float(np.abs(wide - narrow).max() / max(float(np.abs(wide).max()), TINY))


def _keys(model: ModelProto, nodes: Sequence[NodeProto]) -> list[tuple[str, ...]]:
    """What tells nodes apart: operator, and names of the weights behind casts."""
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
    """Return the name that a weight had before it was quantised."""
    return weight.removesuffix("_quantized").removesuffix(".codes")


def _precision(model: ModelProto) -> str:
    """Return the least precise type of a graph, as `TOLERANCES` names it."""
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
    """Inputs of a file that no bundle describes."""
    inputs = {value.name: value for value in graph.model.graph.input}
    if not {"input"} <= set(inputs) <= {"input", "geometry"}:
        raise UsageError(
            f"{graph.name} takes {sorted(inputs)}; give the bundle that says what they are"
        )
    size = (LR[0] * PLAIN_SCALE, LR[1] * PLAIN_SCALE)
    feeds: dict[str, NDArray[Any]] = {"input": sample_pictures(Case(LR, size))}
    if "geometry" in inputs:
        feeds["geometry"] = Window.whole(LR, size).geometry()
    kind = inputs["input"].type.tensor_type.elem_type
    return _typed(feeds, "uint8" if kind == TensorProto.UINT8 else "float32")


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
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is not a valid ONNX file: {reason}") from error
    return Graph(str(path), onnx.load_from_string(content))
