"""The manifest of a bundle, from a network and an export request."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from typing import Any

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment, Network, Precision
from flowsr_export.export_onnx.seam import Seam
from flowsr_lp import Checkpoint
from flowsr_runtime import UsageError
from flowsr_runtime.bundle.manifest import Io, Manifest

__all__ = ["Request", "draft_manifest", "model_fields", "tiling_fields"]


@dataclass(frozen=True)
class Request:
    """Settings of an export.

    Attributes:
        precision: Data type of the heavy layers.
        scale: Fixed scale of the single-input variant; None for any scale.
        opset: ONNX operator set; None for the usual one of the precision.
        licence: License of the weights, as text for the manifest.
        io: Data type of the graph's images; uint8 needs fp32 or fp16.
        guard: Whether patches with values out of range are shrunk; None as the checkpoint says.

    Raises:
        UsageError: If uint8 images are combined with bf16.
    """

    precision: Precision = "fp32"
    scale: Fraction | None = None
    opset: int | None = None
    licence: str = "see the checkpoint's source"
    io: Io = "float32"
    guard: bool | None = None

    def __post_init__(self) -> None:
        """Check the combination."""
        if self.io == "uint8" and self.precision == "bf16":
            raise UsageError(
                "io uint8 needs fp32 or fp16, got bf16: no CPU runs such a model to check it",
                option="io",
            )


def draft_manifest(checkpoint: Checkpoint, request: Request) -> Manifest:
    """Return the manifest that an export would write, without exporting.

    Nothing is measured: the halo is the whole receptive field, and there are no files.

    Args:
        checkpoint: The network.
        request: Settings of the export.
    """
    deployment = deployment_of(checkpoint.network)
    deployment.set_guard(request.guard)
    whole_only = deployment.whole_only(request.scale)
    raw = {
        **model_fields(checkpoint, deployment, request),
        "tiling": tiling_fields(deployment, None, whole_only),
        "memory": deployment.memory(0, None if whole_only else deployment.exact_halo()),
        "files": {},
    }
    return Manifest.parse(raw)


def model_fields(
    checkpoint: Checkpoint, deployment: Deployment, request: Request
) -> dict[str, Any]:
    """Return the manifest's fields about the network, its inputs and its scale."""
    fields = deployment.manifest_fields(request.scale)
    fields["picture"]["io"] = request.io
    if request.io == "uint8":
        fields["picture"]["range"] = [0, 255]
    return {
        "schema": 1,
        **fields,
        "tool": {
            "flowsr": version("flowsr-lp"),
            "torch": version("torch"),
            "onnx": version("onnx"),
        },
        "model": {
            "config": checkpoint.config,
            "model_sha256": checkpoint.model_sha256,
            "prior_sha256": checkpoint.prior_sha256,
            "licence": request.licence,
            "parameters": _parameters(checkpoint.network),
        },
        "condition_numbers": deployment.condition_numbers(),
    }


def _parameters(network: Network) -> dict[str, int | None]:
    """Count the weights of the flow with its encoder, and of the prior."""
    total = sum(weight.numel() for weight in network.parameters())
    if network.prior is None:
        return {"model": total, "prior": None}
    prior = sum(weight.numel() for weight in network.prior.parameters())
    return {"model": total - prior, "prior": prior}


def tiling_fields(
    deployment: Deployment, seam: Seam | None, whole_only: bool
) -> dict[str, Any]:
    """Return the manifest's fields about tiles; without a seam the halo is the exact one."""
    exact = deployment.exact_halo()
    halo = seam.halo if seam else exact
    return {
        "patch": exact.patch,
        "align": exact.align,
        "lr_align": exact.lr_align,
        "ratio": exact.ratio,
        "whole_only": whole_only,
        "halo_patches": halo.patches,
        "halo_pixels": halo.pixels,
        "exact_patches": exact.patches,
        "exact_pixels": exact.pixels,
        "seam_steps": round(seam.steps, 4) if seam else None,
    }
