"""Fold everything that follows from sizes and weights alone into compact initializers."""

from __future__ import annotations

import logging

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper
from onnxscript import optimizer

__all__ = ["LARGEST_FOLDED", "fold_constants"]

# Elements of the largest tensor that folding may store: the indices of a 480x270 image at ×4
# are below it. Larger ones stay the sums and products of the small vectors they come from.
LARGEST_FOLDED = 1 << 20
LARGEST_INT32 = 2**31 - 1


def fold_constants(model: ModelProto, largest: int = LARGEST_FOLDED) -> ModelProto:
    """Evaluate every node whose inputs are constants.

    Equal initializers are stored once, and indices of Gather as int32, which halves them.

    Args:
        model: A graph with sizes fixed; not changed.
        largest: Elements of the largest result that is stored.

    Returns:
        A folded copy.
    """
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        folded: ModelProto = optimizer.optimize(
            model, input_size_limit=1 << 62, output_size_limit=largest
        )
    finally:
        logger.setLevel(level)
    _shorten_indices(folded)
    _merge_equal(folded)
    return folded


def _shorten_indices(model: ModelProto) -> None:
    """Store the int64 initializers that only Gather reads, as indices, in int32."""
    graph = model.graph
    indices = {node.input[1] for node in graph.node if node.op_type == "Gather"}
    others = {
        name
        for node in graph.node
        for i, name in enumerate(node.input)
        if node.op_type != "Gather" or i != 1
    }
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64 and tensor.name in indices - others:
            values = numpy_helper.to_array(tensor)
            if values.size and np.abs(values).max() <= LARGEST_INT32:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.int32), tensor.name))


def _merge_equal(model: ModelProto) -> None:
    """Store equal initializers once."""
    graph = model.graph
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    merged: dict[str, str] = {}
    kept = []
    for tensor in graph.initializer:
        content = numpy_helper.to_array(tensor).tobytes()
        name = first.setdefault((tensor.data_type, tuple(tensor.dims), content), tensor.name)
        if name == tensor.name:
            kept.append(tensor)
        merged[tensor.name] = name
    for node in graph.node:
        node.input[:] = [merged.get(name, name) for name in node.input]
    names = {value.name for value in graph.output}
    del graph.initializer[:]
    graph.initializer.extend(kept)
    assert not names & merged.keys(), "an output does not depend on the image"
