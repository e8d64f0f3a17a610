"""Add the graph of a precision to a bundle that lacks it."""

from __future__ import annotations

from collections.abc import Callable

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Precision
from flowsr_export.export_onnx.bundle import Request, checked_model
from flowsr_export.parity.reference import restated_scale
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.directory import extend_bundle

__all__ = ["add_precision"]


def add_precision(
    bundle: Bundle,
    checkpoint: Checkpoint,
    precision: Precision,
    report: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Export one more graph of the bundle's network, checked before it is kept.

    Args:
        bundle: The bundle; what it holds stays.
        checkpoint: The network that it was made of; see `verify.reference_of`.
        precision: Type of the heavy layers.
        report: Called with each step when it begins.

    Returns:
        The bundle with `model.<precision>.onnx`.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
        OutputError: If it cannot be written, or the bundle has it.
    """
    deployment = deployment_of(checkpoint.network)
    scale = restated_scale(bundle, deployment)
    request = Request(precision, scale, io=bundle.manifest.io)
    made = checked_model(checkpoint, deployment, request, report)
    return extend_bundle(bundle.path, {made.name: made.content}, {made.name: made.entry})
