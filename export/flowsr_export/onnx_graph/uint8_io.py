"""Graphs with uint8 input and output: the conversion around a float graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from flowsr_runtime.errors import ParityError

__all__ = ["Uint8Session", "with_uint8_io"]

WHITE = 255
# New names of the float tensors that were called `input` and `output`.
RENAMED = {"input": "input_full_range", "output": "output_full_range"}
CONSTANTS = {"white": WHITE, "half": 0.5, "zero": 0.0, "one": 1.0}


class Session(Protocol):
    """Runs a graph with uint8 input and output."""

    @property
    def backend(self) -> str:
        """Inference library."""

    @property
    def provider(self) -> str:
        """Execution provider of the library."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the graph."""

    def close(self) -> None:
        """Free the session."""


class Uint8Session:
    """A session of a uint8 graph behind the interface of a float graph.

    Attributes:
        backend: Inference library.
        provider: Execution provider of the library.
    """

    def __init__(self, session: Session) -> None:
        """Wrap a session; `close` closes it."""
        self._session = session
        self.backend, self.provider = session.backend, session.provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """Run the graph.

        Args:
            feeds: Inputs by name; `input` (B, 3, h, w) float32 in [0, 1], multiples of 1/255.

        Returns:
            Pictures, (B, 3, H, W) uint8.

        Raises:
            ParityError: If the output is not uint8.
        """
        picture = np.rint(feeds["input"] * WHITE).astype(np.uint8)
        output = self._session.run({**feeds, "input": picture})
        if output.dtype != np.uint8:
            raise ParityError(f"output must be uint8, got {output.dtype}")
        return output

    def close(self) -> None:
        """Free the session."""
        self._session.close()


def with_uint8_io(model: ModelProto) -> ModelProto:
    """Return a graph with its input and output converted to uint8.

    The input is divided by 255. The output is clamped to [0, 1], multiplied by 255 and rounded
    half up, as in the runtime. A Floor before the last cast makes the result independent of
    how a backend rounds in casts.

    Args:
        model: A graph with `input` and `output` in float32; not changed.

    Returns:
        A copy with both in uint8.
    """
    converted = ModelProto()
    converted.CopyFrom(model)
    graph = converted.graph
    for node in graph.node:
        node.input[:] = [RENAMED.get(name, name) for name in node.input]
        node.output[:] = [RENAMED.get(name, name) for name in node.output]
    nodes = [*_before(), *graph.node, *_after()]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), f"eight_bit.{name}")
        for name, value in CONSTANTS.items()
    )
    for value in (*graph.input, *graph.output):
        if value.name in RENAMED:
            value.type.tensor_type.elem_type = TensorProto.UINT8
    for entry in converted.metadata_props:
        if entry.key == "range":
            entry.value = f"[0, {WHITE}]"
    onnx.checker.check_model(converted, full_check=True)
    return converted


def _before() -> list[NodeProto]:
    return [
        _node("Cast", ["input"], "eight_bit.input", to=TensorProto.FLOAT),
        _node("Div", ["eight_bit.input", "eight_bit.white"], RENAMED["input"]),
    ]


def _after() -> list[NodeProto]:
    bounds = ["eight_bit.zero", "eight_bit.one"]
    return [
        _node("Clip", [RENAMED["output"], *bounds], "eight_bit.clamped"),
        _node("Mul", ["eight_bit.clamped", "eight_bit.white"], "eight_bit.scaled"),
        _node("Add", ["eight_bit.scaled", "eight_bit.half"], "eight_bit.above"),
        _node("Floor", ["eight_bit.above"], "eight_bit.whole"),
        _node("Cast", ["eight_bit.whole"], "output", to=TensorProto.UINT8),
    ]


def _node(operator: str, inputs: list[str], output: str, to: int | None = None) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"{operator} to {output}", to=to)
