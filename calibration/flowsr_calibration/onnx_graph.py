"""Producers, consumers and constants of an ONNX graph, and copies with changed nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

__all__ = ["OnnxGraph", "attribute", "with_nodes", "with_opset", "without_dead_nodes"]


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
    model: ModelProto, nodes: Iterable[NodeProto], constants: dict[str, NDArray[Any]]
) -> ModelProto:
    """Copy a model with other nodes and with added or replaced constants.

    Args:
        model: The model; not changed.
        nodes: All nodes of the copy, in order of execution.
        constants: Tensors to store, by name.

    Returns:
        The copy, without unused nodes and constants.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    kept = [t for t in copy.graph.initializer if t.name not in constants]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    copy.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in constants.items()
    )
    return without_dead_nodes(copy)


def without_dead_nodes(model: ModelProto) -> ModelProto:
    """Remove nodes and constants that the outputs do not need from a model, in place."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    alive = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    nodes = kept[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend(alive)
    return model


def with_opset(model: ModelProto, least: int) -> ModelProto:
    """Raise the operator set of a model to at least `least`, in place."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, least)
    return model
