"""What can be quantised: the layers of the networks, and the blocks that they make up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from onnx import ModelProto, NodeProto

from flowsr_calibration.onnx_graph import OnnxGraph, attribute

__all__ = ["Layer", "blocks_of", "layers_of"]

Kind = Literal["Conv", "Gemm"]

# Modules whose weights may be quantised, as the exporter's weights name them. Everything else
# that has weights is the Fourier phase or the flow, which stay float32: an error there is
# stretched by the inverse, or turns into the wrong phase.
MODULES = ("encoder", "tables", "conditioner", "chunks", "prior")
FLOW = ("phase", "encode_maps", "decode_maps", "steps", "forward_maps", "inverse_maps", "split")
# A block is a residual block, a dense block, a level's convolutions or a layer: a weight's name
# up to its first number, without what only numbers the layers of such a block.
INSIDE = re.compile(r"(\.(maxpool_conv|double_conv)\b.*|\.conv\d+)$")
CHUNK = re.compile(r"levels\.\d+\.chunks\.\d+")
BRANCH = re.compile(r"prior\.branches\.\d+\.")  # SRFlow's prior has a U-Net for each latent
NUMBERED = re.compile(r"(?:[A-Za-z_]\w*\.)+?\d+(?=\.|$)")
FIRST = {"conditioner.cosine": "conditioner.first", "conditioner.sine": "conditioner.first"}
WRAPPERS = ("linf.", "srflow.")  # graphs of one scale hold the other graph as a module


@dataclass(frozen=True)
class Layer:
    """One convolution or product with a stored weight.

    Attributes:
        node: Name of the node.
        kind: "Conv", or "Gemm" for a weight times a matrix whose columns are pixels.
        weight: Name of the weight: (O, I, k, k), or (O, I) of a product.
        bias: Name of the bias, (O,) or (O, 1); None for none, or for a sum with a result.
        block: Name of the block that it is part of.
        input: Name of what it reads, (B, I, h, w), or (I, M) of a product.
        source: Name of what is quantised: `input`, or of a product (M, I) what was transposed.
        output: Name of what it gives.
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
    """Find the layers that may be quantised.

    Args:
        model: Exported float32 graph, whose weights keep the names of their modules.

    Returns:
        The layers in the order of a run; empty if no weight names a module.
    """
    return list(_found(OnnxGraph(model)))


def blocks_of(layers: list[Layer]) -> dict[str, list[Layer]]:
    """Group layers by block, in the order of a run."""
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.block, []).append(layer)
    return blocks


def _found(graph: OnnxGraph) -> Iterator[Layer]:
    for node in graph.nodes:
        kind: Kind
        if node.op_type == "Conv" and _is_network(node.input[1]):
            kind, source, weight = "Conv", node.input[0], node.input[1]
        elif node.op_type == "Gemm" and _is_network(node.input[0]) and _is_plain(node):
            kind, weight, source = "Gemm", node.input[0], node.input[1]
        else:
            continue
        third = node.input[2] if len(node.input) > 2 else ""
        yield Layer(
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


def _untransposed(graph: OnnxGraph, name: str) -> str:
    """What a matrix is the transpose of, or itself."""
    before = graph.producers.get(name)
    if before is None or before.op_type != "Transpose" or attribute(before, "perm") != [1, 0]:
        return name
    return str(before.input[0])


def _is_network(weight: str) -> bool:
    """Whether a weight belongs to a module that may be quantised."""
    parts = weight.split(".")
    return any(part in MODULES for part in parts) and not any(part in FLOW for part in parts)


def _is_plain(node: NodeProto) -> bool:
    """Whether a Gemm is W X + C, no factor and nothing transposed."""
    factors = (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0))
    turned = (attribute(node, "transA", 0), attribute(node, "transB", 0))
    return factors == (1.0, 1.0) and turned == (0, 0)


def _block(weight: str) -> str:
    name = weight
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    if name in FIRST:
        return FIRST[name]
    name = INSIDE.sub("", name.removesuffix(".weight"))
    branch = BRANCH.match(name)
    lead = "" if branch is None else branch[0]
    found = CHUNK.match(name) or NUMBERED.match(name.removeprefix(lead))
    return name if found is None else lead + found[0]
