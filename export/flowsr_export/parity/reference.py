"""The PyTorch reference of a bundle: the checkpoint it was exported from."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_lp import Checkpoint, embedded_checkpoint, load_checkpoint
from flowsr_runtime import Bundle, UsageError

__all__ = ["reference_of", "restated_scale"]


def reference_of(bundle: Bundle, model: Path | None, prior: Path | None) -> Checkpoint:
    """Load the checkpoint of a bundle.

    Args:
        bundle: The bundle.
        model: Checkpoint of the flow; None for the built-in one.
        prior: Checkpoint of the latent module.

    Raises:
        UsageError: If the bundle was exported from other checkpoints.
    """
    if model is None:
        model, prior = embedded_checkpoint()
    checkpoint = load_checkpoint(model, prior, _stacked_blocks(bundle))
    stated = bundle.manifest.raw.get("model")
    hashes = {"model_sha256": checkpoint.model_sha256, "prior_sha256": checkpoint.prior_sha256}
    if not isinstance(stated, dict) or hashes != {key: stated.get(key) for key in hashes}:
        given = f"{model}" if prior is None else f"{model} and {prior}"
        raise UsageError(
            f"model and prior must be the checkpoints that {bundle.path} was exported from, "
            f"got {given}",
            option="model",
        )
    deployment_of(checkpoint.network).set_guard(bundle.manifest.raw.get("guard") is True)
    return checkpoint


def restated_scale(bundle: Bundle, deployment: Deployment) -> Fraction | None:
    """Return the fixed scale of the bundle's graph, None if it takes any scale or tiles."""
    fixed = bundle.manifest.scale
    return None if deployment.scale and not bundle.manifest.tiling.whole_only else fixed


def _stacked_blocks(bundle: Bundle) -> tuple[int, ...] | None:
    """Read the stacked blocks of an SRFlow network, which its checkpoint may not state."""
    value: Any = bundle.manifest.raw
    for key in ("model", "config", "model", "args", "blocks"):
        value = value.get(key) if isinstance(value, dict) else None
    return tuple(value) if isinstance(value, list) else None
