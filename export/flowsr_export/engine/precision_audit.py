"""Audit the precision of an engine, from its ONNX file and its layers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from flowsr_export.deployment.traits import FAMILIES
from flowsr_export.engine.build_log import BuildLog
from flowsr_export.engine.builder import Built
from flowsr_export.onnx_graph.multiply_adds import MacCount, count_macs
from flowsr_runtime.bundle.engine_store import Profile
from flowsr_runtime.errors import PrecisionError

__all__ = [
    "Layer",
    "PrecisionAudit",
    "layers_from_json",
    "layers_from_log",
    "layers_of",
    "least_share",
    "require_precision",
    "audit",
    "work_at",
]

QUANTIZED = ("int8", "fp8")
UNKNOWN = "unknown"
ROUNDING = 1e-9  # rounding error of a sum of shares
# Names of types in TensorRT 10, 11 and RTX, the widest first.
WORDS = (
    ("bf16", re.compile(r"bf16|bfloat", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|\bfloat\b", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|\bhalf\b", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8", re.IGNORECASE)),
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
)
WIDEST = ("fp32", "bf16", "fp16", "fp8", "int8")

NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
LINE = re.compile(
    r"Name: .*?, LayerType: [^,]+, Inputs: (?P<inputs>.*?)"
    r"(, Constants: (?P<constants>.*?))?, Outputs: (?P<outputs>.*)"
)
TENSOR = re.compile(
    r"Dimensions: \[(?P<sides>[^\]]*)\].*?(?:Format/Datatype|Datatype): (?P<type>[^,}]+)"
)
WEIGHTS = re.compile(r"Weights: \{\s*\"?Type\"?: (?P<type>\w+)")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        type: Type of the multiplication or of the inputs, such as "fp16"; None for integers.
        nodes: Names of the ONNX nodes in the layer.
    """

    type: str | None
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionAudit:
    """Shares by type, each from 0 to 1.

    The requirement is on products with weights, the network itself. Resizing is a product
    between activations; it stays float32 by design, and its share grows with the image.

    Attributes:
        precision: Requested precision.
        least: Minimum share of the products with weights in that precision.
        onnx: Shares of the products with weights in the ONNX file.
        engine: The same shares by the type of the engine's layers; "unknown" for nodes that
            no layer names. None if the layers are not known.
        everything: Shares of all multiply-adds in the ONNX file, resizing included.
        layers: Number of layers of the engine by type; None if they are not known.
    """

    precision: str
    least: float
    onnx: Mapping[str, float]
    engine: Mapping[str, float] | None
    everything: Mapping[str, float]
    layers: Mapping[str, int] | None


def work_at(model: onnx.ModelProto, profile: Profile) -> MacCount:
    """Count the multiply-adds of a graph at the optimal shapes of a profile.

    Args:
        model: ONNX file of an engine.
        profile: Profile of the engine.
    """
    best = {name: bounds.opt for name, bounds in profile.items()}
    values = {name: np.array(best.pop(name), np.int64) for name in ["geometry"] if name in best}
    return count_macs(model, best, values)


def least_share(precision: str, family: str, work: MacCount | None = None) -> float:
    """Return the minimum share of a network in the requested precision.

    Args:
        precision: Requested precision.
        family: Family of the model.
        work: Multiply-adds of the ONNX file; an engine must keep all blocks that the
            calibration quantized to eight bits.
    """
    if precision in QUANTIZED:
        stored = {} if work is None else audit(work, [], precision, 0.0).onnx
        return stored.get(precision, 1.0)
    return 1.0 if precision == "fp32" else FAMILIES[family].half_share


def audit(
    work: MacCount, layers: Sequence[Layer], precision: str, least: float
) -> PrecisionAudit:
    """Count the shares of each precision.

    Args:
        work: Multiply-adds of the ONNX file.
        layers: Layers of the engine, empty if they are not known.
        precision: Requested precision.
        least: Minimum share of the products with weights in that precision.

    Returns:
        The shares.
    """
    products = {name: each for name, each in work.by_node.items() if each.of_weights}
    stored = _shares((each.type, each.count) for each in products.values())
    everything = _shares((each.type, each.count) for each in work.by_node.values())
    if not layers:
        return PrecisionAudit(precision, least, stored, None, everything, None)
    types: dict[str, set[str]] = {}
    for layer in layers:
        for node in layer.nodes if layer.type else ():
            types.setdefault(node, set()).add(str(layer.type))
    engine = _shares(
        (_of_node(types.get(name, set()), each.type), each.count)
        for name, each in products.items()
    )
    kinds = Counter(layer.type for layer in layers if layer.type)
    counts = dict(sorted(kinds.items()))
    return PrecisionAudit(precision, least, stored, engine, everything, counts)


def require_precision(result: PrecisionAudit) -> None:
    """Check that the requested precision has its minimum share.

    Args:
        result: Result of an audit.

    Raises:
        PrecisionError: If the share is too low in the ONNX file, or known to be too low in
            the engine.
    """
    precision = result.precision
    for name, shares in (("ONNX file", result.onnx), ("engine", result.engine)):
        if not shares:  # the layers are not known, or there are no products
            continue
        share = shares.get(precision, 0.0) + shares.get(UNKNOWN, 0.0)
        if share < result.least - ROUNDING:
            rest = ", ".join(f"{part:.1%} {kind}" for kind, part in shares.items())
            raise PrecisionError(
                f"{name} has {share:.1%} of its multiply-adds with weights in {precision}, at "
                f"least {result.least:.0%} are needed (it has {rest}); for a small network, "
                "which keeps more in float32, lower least_share",
                option="least_share",
            )


def layers_of(trt: Any, built: Built, *, on_device: bool) -> list[Layer]:
    """Read the layers from the engine if it can be opened, else from the builder's log.

    Args:
        trt: Module `tensorrt` or `tensorrt_rtx`.
        built: Output of its build.
        on_device: Whether there is a GPU; without one no engine can be opened.

    Returns:
        The layers, empty if neither lists them.
    """
    if on_device:
        with BuildLog(None) as log:
            runtime = trt.Runtime(log.logger(trt))
            # This process built the plan, so its host code can be trusted.
            runtime.engine_host_code_allowed = True
            engine = runtime.deserialize_cuda_engine(built.plan)
            if engine is not None:
                form = trt.LayerInformationFormat.JSON
                text = engine.create_engine_inspector().get_engine_information(form)
                return layers_from_json(text) or layers_from_log(built.layers)
    return layers_from_log(built.layers)


def layers_from_log(text: str) -> list[Layer]:
    """Parse the builder's list of layers, which needs no GPU.

    Args:
        text: `Built.layers`.

    Returns:
        The layers; those of each profile follow each other.
    """
    layers = []
    for line in text.split("\nI/O Tensors:")[0].splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        constants = [_tensor(each) for each in TENSOR.finditer(found["constants"] or "")]
        constants += [((0, 0), each["type"]) for each in WEIGHTS.finditer(line)]
        inputs = [_tensor(each) for each in TENSOR.finditer(found["inputs"])]
        nodes = tuple(dict.fromkeys(NODE.findall(line)))
        layers.append(Layer(_type(inputs, constants), nodes))
    return layers


def layers_from_json(text: str) -> list[Layer]:
    """Parse the JSON of the engine inspector, of any version.

    Args:
        text: `get_engine_information(LayerInformationFormat.JSON)`.

    Returns:
        The layers; empty if the engine was built without details.
    """
    layers = []
    for raw in json.loads(text).get("Layers", []):
        if not isinstance(raw, dict):
            continue
        constants = [_described(each) for each in raw.get("Constants", [])]
        for name in ("Weights", "Bias"):
            if isinstance(raw.get(name), dict) and raw[name].get("Count"):
                constants.append(((0, 0), str(raw[name].get("Type", ""))))
        inputs = [_described(each) for each in raw.get("Inputs", [])]
        nodes = tuple(dict.fromkeys(NODE.findall(str(raw.get("Metadata", "")))))
        layers.append(Layer(_type(inputs, constants), nodes))
    return layers


Described = tuple[tuple[int, ...], str]


def _tensor(found: re.Match[str]) -> Described:
    sides = tuple(int(side) for side in found["sides"].split(",") if side.strip())
    return sides, found["type"]


def _described(raw: Mapping[str, object]) -> Described:
    sides = raw.get("Dimensions")
    word = raw.get("Datatype") or raw.get("Format/Datatype") or ""
    return tuple(sides) if isinstance(sides, list) else (-1, -1), str(word)


def _type(inputs: Sequence[Described], constants: Sequence[Described]) -> str | None:
    """Return the type of the weights, else the widest input type.

    Weights have at least two sides; a bias has one, and may be added after a cast.
    """
    weights = [word for sides, word in constants if sum(side != 1 for side in sides) > 1]
    named = [_named(word) for word in weights]
    if not any(named):
        named = [_named(word) for _, word in inputs]
    return min(filter(None, named), key=WIDEST.index, default=None)


def _named(word: str) -> str | None:
    return next((name for name, pattern in WORDS if pattern.search(word)), None)


def _shares(parts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Return the share of each type."""
    counts: Counter[str] = Counter()
    for name, count in parts:
        counts[name] += count
    whole = max(counts.total(), 1)
    return {name: count / whole for name, count in sorted(counts.items())}


def _of_node(types: set[str], stored: str) -> str:
    """Return the type of a node's layers; a layer with the file's type holds the product."""
    if not types:
        return UNKNOWN
    return stored if stored in types else min(types, key=WIDEST.index)
