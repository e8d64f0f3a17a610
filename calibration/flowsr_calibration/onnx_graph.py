"""A view of an ONNX graph for rewriting: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

__all__ = ["OnnxGraph", "attribute", "with_nodes", "with_opset", "without_dead_nodes"]


class OnnxGraph:
    """Producers, consumers and constants of a model that is not changed meanwhile."""

    def __init__(self, model: ModelProto) -> None:
        """Look at `model`."""
        self.model = model
        self.nodes = list(model.graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.outputs = {value.name for value in model.graph.output}
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    @cached_property
    def consumers(self) -> dict[str, list[NodeProto]]:
        """Nodes that read a tensor, each once for each time that it reads it."""
        consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                consumers[name].append(node)
        return consumers

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is stored in the file."""
        return name in self._tensors

    def value(self, name: str) -> NDArray[Any]:
        """Return a stored tensor."""
        return numpy_helper.to_array(self._tensors[name])

    def sole_reader(self, name: str) -> NodeProto | None:
        """Return the one node that reads a tensor, None if there are others or it is given."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return a node's attribute: a number or a list of numbers."""
    for each in node.attribute:
        if each.name == name:
            return {1: each.f, 2: each.i, 6: list(each.floats), 7: list(each.ints)}[each.type]
    return default


def with_nodes(
    model: ModelProto, nodes: Iterable[NodeProto], constants: dict[str, NDArray[Any]]
) -> ModelProto:
    """Copy a model with other nodes and some constants added or replaced.

    Args:
        model: Not changed.
        nodes: All nodes of the copy, in the order of a run.
        constants: Stored tensors by name.

    Returns:
        The copy, without what nothing reads.
    """
    made = ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    kept = [t for t in made.graph.initializer if t.name not in constants]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    made.graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in constants.items()
    )
    return without_dead_nodes(made)


def without_dead_nodes(model: ModelProto) -> ModelProto:
    """Drop from a model, in place, the nodes and constants that its outputs do not need."""
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
    """Raise a model's operator set, in place, to one that has what was put in."""
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, least)
    return model
