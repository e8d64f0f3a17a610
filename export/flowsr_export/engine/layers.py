"""Layers of an engine: the types that they compute in and the bytes that they move."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowsr_export.engine.build_log import BuildLog
from flowsr_export.engine.builder import Built

__all__ = ["WIDEST", "Layer", "layers_from_json", "layers_from_log", "layers_of"]

# Names of types in TensorRT 10, 11 and RTX, the widest first.
WORDS = (
    ("bf16", re.compile(r"bf16|bfloat", re.IGNORECASE)),
    ("fp32", re.compile(r"fp32|\bfloat\b", re.IGNORECASE)),
    ("fp16", re.compile(r"fp16|\bhalf\b", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8", re.IGNORECASE)),
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
)
WIDEST = ("fp32", "bf16", "fp16", "fp8", "int8")
"""Types of products, the widest first."""

# Bytes of an element, by the same names and those of integers.
SIZES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
OTHERS = (
    (8, re.compile(r"int64", re.IGNORECASE)),
    (4, re.compile(r"int32", re.IGNORECASE)),
    (1, re.compile(r"bool|uint8", re.IGNORECASE)),
)

NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
LINE = re.compile(
    r"Name: .*?, LayerType: [^,]+, Inputs: (?P<inputs>.*?)"
    r"(, Constants: (?P<constants>.*?))?, Outputs: (?P<outputs>.*)"
)
TENSOR = re.compile(
    r"Name: (?P<name>[^,]*), Dimensions: \[(?P<sides>[^\]]*)\].*?"
    r"(?:Format/Datatype|Datatype): (?P<type>[^,}]+)"
)
WEIGHTS = re.compile(r"Weights: \{\s*\"?Type\"?: (?P<type>\w+)")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        type: Type of the multiplication or of the inputs, such as "fp16"; None for integers.
        nodes: Names of the ONNX nodes in the layer.
        read: Bytes of its inputs and constants, each tensor once; None if a side or a type is
            not known, as in an engine for a range of sizes.
        written: Bytes of its outputs, None as above.
    """

    type: str | None
    nodes: tuple[str, ...]
    read: int | None = None
    written: int | None = None


@dataclass(frozen=True)
class _Tensor:
    name: str
    sides: tuple[int, ...]
    word: str

    @property
    def bytes(self) -> int | None:
        """Size in memory, None if a side or the type is not known."""
        kind = _named(self.word)
        others = (size for size, word in OTHERS if word.search(self.word))
        size = SIZES[kind] if kind else next(others, None)
        if size is None or min(self.sides, default=1) < 0:
            return None
        return size * math.prod(self.sides)


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
        inputs, constants, outputs = (
            [_tensor(each) for each in TENSOR.finditer(found[part] or "")]
            for part in ("inputs", "constants", "outputs")
        )
        weights = [_Tensor("", (0, 0), each["type"]) for each in WEIGHTS.finditer(line)]
        nodes = tuple(dict.fromkeys(NODE.findall(line)))
        layers.append(_layer(inputs, [*constants, *weights], outputs, nodes))
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
        inputs, constants, outputs = (
            [_described(each) for each in raw.get(part, [])]
            for part in ("Inputs", "Constants", "Outputs")
        )
        for name in ("Weights", "Bias"):
            if isinstance(raw.get(name), dict) and raw[name].get("Count"):
                constants.append(_Tensor("", (0, 0), str(raw[name].get("Type", ""))))
        nodes = tuple(dict.fromkeys(NODE.findall(str(raw.get("Metadata", "")))))
        layers.append(_layer(inputs, constants, outputs, nodes))
    return layers


def _tensor(found: re.Match[str]) -> _Tensor:
    sides = tuple(int(side) for side in found["sides"].split(",") if side.strip())
    return _Tensor(found["name"], sides, found["type"])


def _described(raw: Mapping[str, object]) -> _Tensor:
    sides = raw.get("Dimensions")
    word = raw.get("Datatype") or raw.get("Format/Datatype") or ""
    known = tuple(sides) if isinstance(sides, list) else (-1, -1)
    return _Tensor(str(raw.get("Name", "")), known, str(word))


def _layer(
    inputs: Sequence[_Tensor],
    constants: Sequence[_Tensor],
    outputs: Sequence[_Tensor],
    nodes: tuple[str, ...],
) -> Layer:
    read = _sum((*inputs, *constants))
    return Layer(_type(inputs, constants), nodes, read, _sum(outputs))


def _sum(tensors: Iterable[_Tensor]) -> int | None:
    """Return the bytes of distinct tensors, None if those of one are not known."""
    sizes = [each.bytes for each in dict.fromkeys(tensors)]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _type(inputs: Sequence[_Tensor], constants: Sequence[_Tensor]) -> str | None:
    """Return the type of the weights, else the widest input type.

    Weights have at least two sides; a bias has one, and may be added after a cast.
    """
    weights = [each.word for each in constants if sum(side != 1 for side in each.sides) > 1]
    named = [_named(word) for word in weights]
    if not any(named):
        named = [_named(each.word) for each in inputs]
    return min(filter(None, named), key=WIDEST.index, default=None)


def _named(word: str) -> str | None:
    return next((name for name, pattern in WORDS if pattern.search(word)), None)
