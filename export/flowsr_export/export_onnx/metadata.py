"""Metadata of an ONNX file: what a tool needs to feed the graph without a bundle."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from flowsr_export.deployment.interface import Deployment
from flowsr_lp import Checkpoint
from flowsr_runtime.geometry import tile_multiple

__all__ = ["graph_metadata"]

# Scales whose tile multiples an any-scale graph states.
WHOLE_SCALES = (2, 3, 4, 8)


def graph_metadata(
    checkpoint: Checkpoint, deployment: Deployment, scale: Fraction | None
) -> dict[str, Any]:
    """Return the entries of a graph with float32 images.

    Args:
        checkpoint: The network.
        deployment: Its deployment.
        scale: Fixed scale of the graph; None for any, or the network's own.

    Returns:
        `scale`, `range`, `color_order`, `layout`; `tile_align`, the output pixels whose
        multiples tiles begin at, and `tile_multiple`, the same in low-resolution pixels, by
        scale for an any-scale graph; and the hashes of the checkpoints as `flowsr-lp`.
    """
    align, fixed = deployment.exact_halo().align, scale or deployment.scale
    multiples = {str(n): tile_multiple(Fraction(n), align) for n in WHOLE_SCALES}
    return {
        "scale": "any" if fixed is None else str(fixed),
        "tile_multiple": multiples if fixed is None else tile_multiple(fixed, align),
        "tile_align": align,
        "range": [0, 1],
        "color_order": "RGB",
        "layout": "NCHW",
        "flowsr-lp": {
            "model_sha256": checkpoint.model_sha256,
            "prior_sha256": checkpoint.prior_sha256,
        },
    }
