"""Audit the precision of an engine, from its ONNX file and its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from flowsr_export.deployment.traits import FAMILIES
from flowsr_export.engine.layers import WIDEST, Layer
from flowsr_export.onnx_graph.multiply_adds import MacCount, count_macs
from flowsr_runtime.bundle.engine_store import Profile
from flowsr_runtime.errors import PrecisionError

__all__ = [
    "PrecisionAudit",
    "audit",
    "least_share",
    "require_precision",
    "work_at",
]

QUANTIZED = ("int8", "fp8")
UNKNOWN = "unknown"
ROUNDING = 1e-9  # rounding error of a sum of shares


@dataclass(frozen=True)
class PrecisionAudit:
    """Shares by type, each from 0 to 1.

    The requirement is on products with weights, the network itself. Resizing is a product
    between activations; it stays float32 by design, and its share grows with the image.

    Attributes:
        precision: Requested precision.
        least: Minimum share of the products with weights in that precision.
        onnx: Shares of the products with weights in the ONNX file.
        engine: The same shares by the type of the engine's layers; "unknown" for nodes that
            no layer names. None if the layers are not known.
        everything: Shares of all multiply-adds in the ONNX file, resizing included.
        layers: Number of layers of the engine by type; None if they are not known.
    """

    precision: str
    least: float
    onnx: Mapping[str, float]
    engine: Mapping[str, float] | None
    everything: Mapping[str, float]
    layers: Mapping[str, int] | None


def work_at(model: onnx.ModelProto, profile: Profile) -> MacCount:
    """Count the multiply-adds of a graph at the optimal shapes of a profile.

    Args:
        model: ONNX file of an engine.
        profile: Profile of the engine.
    """
    best = {name: bounds.opt for name, bounds in profile.items()}
    values = {name: np.array(best.pop(name), np.int64) for name in ["geometry"] if name in best}
    return count_macs(model, best, values)


def least_share(precision: str, family: str, work: MacCount | None = None) -> float:
    """Return the minimum share of a network in the requested precision.

    Args:
        precision: Requested precision.
        family: Family of the model.
        work: Multiply-adds of the ONNX file; an engine must keep all blocks that the
            calibration quantized to eight bits.
    """
    if precision in QUANTIZED:
        stored = {} if work is None else audit(work, [], precision, 0.0).onnx
        return stored.get(precision, 1.0)
    return 1.0 if precision == "fp32" else FAMILIES[family].half_share


def audit(
    work: MacCount, layers: Sequence[Layer], precision: str, least: float
) -> PrecisionAudit:
    """Count the shares of each precision.

    Args:
        work: Multiply-adds of the ONNX file.
        layers: Layers of the engine, empty if they are not known.
        precision: Requested precision.
        least: Minimum share of the products with weights in that precision.

    Returns:
        The shares.
    """
    products = {name: each for name, each in work.by_node.items() if each.of_weights}
    stored = _shares((each.type, each.count) for each in products.values())
    everything = _shares((each.type, each.count) for each in work.by_node.values())
    if not layers:
        return PrecisionAudit(precision, least, stored, None, everything, None)
    types: dict[str, set[str]] = {}
    for layer in layers:
        for node in layer.nodes if layer.type else ():
            types.setdefault(node, set()).add(str(layer.type))
    engine = _shares(
        (_of_node(types.get(name, set()), each.type), each.count)
        for name, each in products.items()
    )
    kinds = Counter(layer.type for layer in layers if layer.type)
    counts = dict(sorted(kinds.items()))
    return PrecisionAudit(precision, least, stored, engine, everything, counts)


def require_precision(result: PrecisionAudit) -> None:
    """Check that the requested precision has its minimum share.

    Args:
        result: Result of an audit.

    Raises:
        PrecisionError: If the share is too low in the ONNX file, or known to be too low in
            the engine.
    """
    precision = result.precision
    for name, shares in (("ONNX file", result.onnx), ("engine", result.engine)):
        if not shares:  # the layers are not known, or there are no products
            continue
        share = shares.get(precision, 0.0) + shares.get(UNKNOWN, 0.0)
        if share < result.least - ROUNDING:
            rest = ", ".join(f"{part:.1%} {kind}" for kind, part in shares.items())
            raise PrecisionError(
                f"{name} has {share:.1%} of its multiply-adds with weights in {precision}, at "
                f"least {result.least:.0%} are needed (it has {rest}); for a small network, "
                "which keeps more in float32, lower least_share",
                option="least_share",
            )


def _shares(parts: Iterable[tuple[str, int]]) -> dict[str, float]:
    """Return the share of each type."""
    counts: Counter[str] = Counter()
    for name, count in parts:
        counts[name] += count
    whole = max(counts.total(), 1)
    return {name: count / whole for name, count in sorted(counts.items())}


def _of_node(types: set[str], stored: str) -> str:
    """Return the type of a node's layers; a layer with the file's type holds the product."""
    if not types:
        return UNKNOWN
    return stored if stored in types else min(types, key=WIDEST.index)
