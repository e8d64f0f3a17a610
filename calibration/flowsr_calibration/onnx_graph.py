"""Producers, consumers and constants of an ONNX graph, and copies with changed nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["OnnxGraph", "attribute", "with_nodes"]


class OnnxGraph:
    """Producers, consumers and constants of a model, which must not be changed meanwhile."""

    def __init__(self, model: ModelProto) -> None:
        """Index `model`."""
        self.model = model
        self.nodes = list(model.graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.outputs = {value.name for value in model.graph.output}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """Nodes that read a tensor, once for each input."""
        consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                consumers[name].append(node)
        return consumers

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is stored in the model."""
        return name in self._tensors

    def value(self, name: str) -> NDArray[Any]:
        """Return a stored tensor."""
        return numpy_helper.to_array(self._tensors[name])

    def sole_reader(self, name: str) -> NodeProto | None:
        """Return the only reader of a tensor; None if there are others or it is an output."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return a node's attribute: a number or a list of numbers."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def with_nodes(
    model: ModelProto,
    nodes: Iterable[NodeProto],
    constants: Mapping[str, NDArray[Any]],
    stored: Iterable[TensorProto] = (),
    *,
    opset: int = 0,
) -> ModelProto:
    """Copy a model with other nodes and with added or replaced constants.

    Args:
        model: The model; not changed.
        nodes: All nodes of the copy, in order of execution.
        constants: Tensors to store, by name.
        stored: Further tensors to store, of types that NumPy lacks.
        opset: Least operator set of the copy.

    Returns:
        The copy, without nodes and constants that its outputs do not need.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    needed = {value.name for value in model.graph.output}
    kept: list[NodeProto] = []
    for node in reversed(list(nodes)):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    tensors = [tensor for tensor in model.graph.initializer if tensor.name not in constants]
    tensors += [
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in constants.items()
    ]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(kept[::-1])
    copy.graph.initializer.extend(t for t in (*tensors, *stored) if t.name in needed)
    for entry in copy.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, opset)
    return copy
