"""Cross-layer equalization: balance the ranges of channels between two layers.

A ReLU, leaky or not, commutes with a positive factor: an output channel of one layer is
divided by a factor and the next layer's weights for that channel are multiplied by it, which
keeps the function (Nagel et al. 2019, arXiv 1906.04721, equation 6). The factor makes the range
of the channel equal to that of the weights that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from flowsr_calibration.layers import Layer, summands_of
from flowsr_calibration.onnx_graph import OnnxGraph, with_nodes

__all__ = ["Pair", "equalize_pairs", "pairs_of"]

MAX_FACTOR: Final = 16.0  # its inverse is the minimum
RELUS: Final = ("LeakyRelu", "Relu")


@dataclass(frozen=True)
class Pair:
    """Layers with only a ReLU between them.

    Attributes:
        before: Layer whose output has the channels; several if it is their sum.
        after: The only layer that reads them.
    """

    before: tuple[Layer, ...]
    after: Layer


def pairs_of(model: ModelProto, layers: Sequence[Layer]) -> list[Pair]:
    """Find the pairs of layers that can be equalized.

    Args:
        model: The float32 graph.
        layers: Layers that may be quantized.
    """
    graph = OnnxGraph(model)
    by_output = {layer.output: layer for layer in layers}
    pairs = []
    for layer in layers:
        relu = graph.producers.get(layer.input)
        if relu is None or relu.op_type not in RELUS or layer.groups != 1:
            continue
        alone = graph.sole_reader(layer.input) is not None
        before = summands_of(graph, by_output, relu.input[0])
        if alone and before and all(other.groups == 1 for other in before):
            pairs.append(Pair(before, layer))
    return pairs


def equalize_pairs(
    model: ModelProto, pairs: Sequence[Pair], channels: Mapping[str, NDArray[np.float32]]
) -> ModelProto:
    """Equalize pairs of layers.

    Args:
        model: The float32 graph; not changed.
        pairs: Pairs to equalize.
        channels: Largest magnitude of each channel, (C,), by input tensor of each `after`.

    Returns:
        A graph with the same function.
    """
    graph = OnnxGraph(model)
    changed: dict[str, NDArray[Any]] = {}

    def value(name: str) -> NDArray[Any]:
        return changed[name] if name in changed else graph.value(name).astype(np.float64)

    for pair in pairs:
        weight = value(pair.after.weight)
        reach = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != 1))
        factor = _factors(channels[pair.after.input], reach)
        changed[pair.after.weight] = weight * _along(factor, weight.ndim, 1)
        for layer in pair.before:
            weight = value(layer.weight)
            changed[layer.weight] = weight / _along(factor, weight.ndim, 0)
            if layer.bias is not None:
                bias = value(layer.bias)
                changed[layer.bias] = bias / _along(factor, bias.ndim, 0)
    constants = {name: array.astype(np.float32) for name, array in changed.items()}
    return with_nodes(model, model.graph.node, constants)


def _factors(channels: NDArray[np.float32], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the divisor of each channel; their geometric mean is one."""
    alive = (channels > 0) & (reach > 0)
    factors = np.ones(len(channels))
    if alive.any():
        ratio = np.sqrt(channels[alive].astype(np.float64) / reach[alive])
        factors[alive] = np.clip(
            ratio / np.exp(np.log(ratio).mean()), 1 / MAX_FACTOR, MAX_FACTOR
        )
    return factors


def _along(factor: NDArray[np.float64], ndim: int, axis: int) -> NDArray[np.float64]:
    return factor.reshape([-1 if i == axis else 1 for i in range(ndim)])
