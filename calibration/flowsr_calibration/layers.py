"""Layers of the networks that can be quantized, and the blocks that they form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto

from flowsr_calibration.onnx_graph import OnnxGraph, attribute

__all__ = ["Layer", "blocks_of", "layers_of"]

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
FIRST = {"conditioner.cosine": "conditioner.first", "conditioner.sine": "conditioner.first"}
WRAPPERS = ("linf.", "srflow.")  # graphs of one scale contain the other graph as a module


@dataclass(frozen=True)
class Layer:
    """One convolution or product with a stored weight.

    Attributes:
        node: Name of the node.
        kind: "Conv", or "Gemm" for a weight times a matrix whose columns are pixels.
        weight: Name of the weight: (O, I, k, k), or (O, I) of a product.
        bias: Name of the bias, (O,) or (O, 1); None without one or if a tensor is added.
        block: Name of its block.
        input: Name of the input tensor, (B, I, h, w), or (I, M) of a product.
        source: Name of the tensor to quantize: `input`, or (M, I) before the transposition.
        output: Name of the output tensor.
        groups: Groups of a convolution.
    """

    node: str
    kind: Kind
    weight: str
    bias: str | None
    block: str
    input: str
    source: str
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
        kind: Kind
        if node.op_type == "Conv" and _is_network(node.input[1]):
            kind, source, weight = "Conv", node.input[0], node.input[1]
        elif node.op_type == "Gemm" and _is_network(node.input[0]) and _is_plain(node):
            kind, weight, source = "Gemm", node.input[0], node.input[1]
        else:
            continue
        third = node.input[2] if len(node.input) > 2 else ""
        layer = Layer(
            node=node.name or node.output[0],
            kind=kind,
            weight=weight,
            bias=third if third and graph.is_constant(third) else None,
            block=_block(weight),
            input=source,
            source=_untransposed(graph, source) if kind == "Gemm" else source,
            output=node.output[0],
            groups=int(attribute(node, "group", 1)),
        )
        layers.append(layer)
    return layers


def blocks_of(layers: list[Layer]) -> dict[str, list[Layer]]:
    """Group layers by block, in order of execution."""
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    return blocks


def _untransposed(graph: OnnxGraph, name: str) -> str:
    """Return the matrix of which a matrix is the transpose, or the matrix itself."""
    before = graph.producers.get(name)
    if before is None or before.op_type != "Transpose" or attribute(before, "perm") != [1, 0]:
        return name
    return str(before.input[0])


def _is_network(weight: str) -> bool:
    """Return whether a weight belongs to a module that may be quantized."""
    parts = weight.split(".")
    return any(part in MODULES for part in parts) and not any(part in FLOW for part in parts)


def _is_plain(node: NodeProto) -> bool:
    """Return whether a Gemm is W X + C, without factors and transpositions."""
    factors = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
    transposed = (attribute(node, "transA", 0), attribute(node, "transB", 0))
    return factors == (1.0, 1.0) and transposed == (0, 0)


def _block(weight: str) -> str:
    name = weight
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    if name in FIRST:
        return FIRST[name]
    name = INSIDE.sub("", name.removesuffix(".weight"))
    branch = BRANCH.match(name)
    lead = "" if branch is None else branch[0]
    match = CHUNK.match(name) or NUMBERED.match(name.removeprefix(lead))
    return name if match is None else lead + match[0]
