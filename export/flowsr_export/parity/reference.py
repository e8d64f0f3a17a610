"""The PyTorch reference of a bundle: the checkpoint that it was exported from."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from flowsr_export.deployment.interface import Deployment
from flowsr_lp import Checkpoint, embedded_checkpoint, load_checkpoint
from flowsr_runtime import Bundle, UsageError

__all__ = ["reference_of", "restated_scale"]


def reference_of(bundle: Bundle, model: Path | None, prior: Path | None) -> Checkpoint:
    """Load the checkpoint of a bundle.

    Args:
        bundle: The bundle.
        model: Its flow; None for the built-in one.
        prior: Its latent module.

    Raises:
        UsageError: If these are not the files that the bundle was made of.
    """
    if model is None:
        model, prior = embedded_checkpoint()
    checkpoint = load_checkpoint(model, prior, _stacked_blocks(bundle))
    stated = bundle.manifest.raw.get("model")
    found = {"model_sha256": checkpoint.model_sha256, "prior_sha256": checkpoint.prior_sha256}
    if not isinstance(stated, dict) or found != {key: stated.get(key) for key in found}:
        given = f"{model}" if prior is None else f"{model} and {prior}"
        raise UsageError(
            f"bundle {bundle.path} was not made of {given}; give its checkpoints with --model "
            "and --prior"
        )
    return checkpoint


def restated_scale(bundle: Bundle, deployment: Deployment) -> Fraction | None:
    """The scale that the bundle's graph was restated with, None for any or for tiles."""
    fixed = bundle.manifest.scale
    return None if deployment.scale and not bundle.manifest.tiling.whole_only else fixed


def _stacked_blocks(bundle: Bundle) -> tuple[int, ...] | None:
    """What the bundle says of an SRFlow network that its checkpoint may not."""
    if bundle.manifest.family != "srflow-lp":
        return None
    value: Any = bundle.manifest.raw
    for key in ("model", "config", "model", "args", "blocks"):
        value = value.get(key) if isinstance(value, dict) else None
    return tuple(value) if isinstance(value, list) else None
