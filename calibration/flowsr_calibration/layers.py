"""Layers of the networks that can be quantized, and the blocks that they form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto

from flowsr_calibration.onnx_graph import OnnxGraph, attribute

__all__ = ["Layer", "blocks_of", "layers_of", "summands_of"]

Kind = Literal["Conv", "Gemm"]

# Modules whose weights may be quantized, by their names in exported weights. All other weights
# belong to the Fourier phase or the flow, which stay float32: the inverse would amplify an
# error, or the phase would be wrong.
MODULES = ("encoder", "tables", "conditioner", "chunks", "prior")
FLOW = ("phase", "encode_maps", "decode_maps", "steps", "forward_maps", "inverse_maps", "split")
# A block is a residual block, a dense block, the convolutions of a level, or a layer: the name
# of a weight up to its first number, without the part that numbers the layers of a block.
INSIDE = re.compile(r"(\.(maxpool_conv|double_conv)\b.*|\.conv\d+)$")
CHUNK = re.compile(r"levels\.\d+\.chunks\.\d+")
BRANCH = re.compile(r"prior\.branches\.\d+\.")  # SRFlow's prior has a U-Net for each latent
NUMBERED = re.compile(r"(?:[A-Za-z_]\w*\.)+?\d+(?=\.|$)")
# Parts of one layer of the published network, which form a block.
PARTS = (
    (re.compile(r"conditioner\.(cosine|sine)"), "conditioner.first"),
    (re.compile(r"conditioner\.last_weights\.\d+"), "conditioner.last"),
)
WRAPPERS = ("linf.", "srflow.")  # graphs of one scale contain the other graph as a module


@dataclass(frozen=True)
class Layer:
    """One convolution or product with a stored weight.

    Attributes:
        node: Name of the node.
        kind: "Conv", or "Gemm" for a product of a matrix whose rows are pixels.
        weight: Name of the weight: (O, I, k, k), or (O, I) of a product.
        bias: Name of the bias, (O,); None without one.
        block: Name of its block.
        input: Name of the input tensor, (B, I, h, w), or (M, I) of a product.
        output: Name of the output tensor.
        groups: Groups of a convolution.
    """

    node: str
    kind: Kind
    weight: str
    bias: str | None
    block: str
    input: str
    output: str
    groups: int = 1


def layers_of(model: ModelProto) -> list[Layer]:
    """Return the layers that may be quantized.

    Args:
        model: Exported float32 graph, whose weights keep the names of their modules.

    Returns:
        The layers in order of execution; empty if no weight names a module.
    """
    graph, layers = OnnxGraph(model), []
    for node in graph.nodes:
        if node.op_type not in ("Conv", "Gemm") or not _is_network(node.input[1]):
            continue
        if node.op_type == "Gemm" and not _is_plain(node):
            continue
        third = node.input[2] if len(node.input) > 2 else ""
        layer = Layer(
            node=node.name or node.output[0],
            kind="Conv" if node.op_type == "Conv" else "Gemm",
            weight=node.input[1],
            bias=third or None,
            block=_block(node.input[1]),
            input=node.input[0],
            output=node.output[0],
            groups=int(attribute(node, "group", 1)),
        )
        layers.append(layer)
    return layers


def summands_of(
    graph: OnnxGraph, by_output: Mapping[str, Layer], name: str
) -> tuple[Layer, ...]:
    """Return the layers whose output, or whose outputs' sum, a tensor is.

    Args:
        graph: Graph of the layers.
        by_output: Layers by output tensor.
        name: Name of the tensor.

    Returns:
        One layer, or the two that one Add alone reads; none if anything else is in the sum.
    """
    add = graph.producers.get(name)
    names = list(add.input) if add is not None and add.op_type == "Add" else [name]
    if not all(each in by_output for each in names):
        return ()
    if names != [name] and any(graph.sole_reader(each) is None for each in names):
        return ()
    return tuple(by_output[each] for each in names)


def blocks_of(layers: list[Layer]) -> dict[str, list[Layer]]:
    """Group layers by block, in order of execution."""
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    return blocks


def _is_network(weight: str) -> bool:
    """Return whether a weight belongs to a module that may be quantized."""
    parts = weight.split(".")
    return any(part in MODULES for part in parts) and not any(part in FLOW for part in parts)


def _is_plain(node: NodeProto) -> bool:
    """Return whether a Gemm is a linear layer, X Wᵀ + b, without factors."""
    factors = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
    transposed = (attribute(node, "transA", 0), attribute(node, "transB", 0))
    return factors == (1.0, 1.0) and transposed == (0, 1)


def _block(weight: str) -> str:
    name = weight
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    for pattern, block in PARTS:
        if pattern.fullmatch(name):
            return block
    name = INSIDE.sub("", name.removesuffix(".weight"))
    branch = BRANCH.match(name)
    lead = "" if branch is None else branch[0]
    match = CHUNK.match(name) or NUMBERED.match(name.removeprefix(lead))
    return name if match is None else lead + match[0]
