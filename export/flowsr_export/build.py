"""From checkpoints to a bundle: export, lint, compare, measure, write."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from PIL import Image

from flowsr_export.cases import Case
from flowsr_export.deployment import TEMPERATURE, Deployment, deployment_of
from flowsr_export.lint import require_clean
from flowsr_export.onnx_export import DEFAULT_OPSET, Precision, onnx_from_deployment
from flowsr_export.parity import Figures, bar_of, compare
from flowsr_export.receptive import Seam, default_halo
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, output_size, write_bundle
from flowsr_runtime.onnxruntime_session import OnnxRuntimeSession

__all__ = ["STEPS", "Request", "build_bundle", "worst"]

GOLDEN_LR = (16, 20)
GOLDEN_SCALE = Fraction("2.5")
EIGHT_BIT = 255
STEPS = ("export to ONNX", "lint", "compare with PyTorch", "measure the seam", "write")


@dataclass(frozen=True)
class Request:
    """What to build.

    Attributes:
        precision: Type of the heavy layers.
        scale: The one scale of the single-input variant; None for any scale.
        opset: ONNX operator set.
        licence: What the manifest says of the weights' licence.
    """

    precision: Precision = "fp32"
    scale: Fraction | None = None
    opset: int = DEFAULT_OPSET
    licence: str = "see the checkpoint's source"


def build_bundle(
    checkpoint: Checkpoint,
    output: Path,
    request: Request,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> tuple[Bundle, list[Figures]]:
    """Export a network and keep it only if it is what PyTorch computes.

    Args:
        checkpoint: The network.
        output: Directory of the bundle.
        request: What to build.
        force: Replace a bundle that is there.
        report: Called with each of `STEPS` when it begins.

    Returns:
        The bundle, and the figures of its comparison with PyTorch.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
        OutputError: If the bundle cannot be written, or is there and `force` is not given.
    """
    deployment, scale = deployment_of(checkpoint.network), request.scale
    report(STEPS[0])
    identity = {
        "model_sha256": checkpoint.model_sha256,
        "prior_sha256": checkpoint.prior_sha256,
    }
    model = onnx_from_deployment(
        deployment, request.precision, scale, request.opset, {"flowsr-lp": identity}
    )
    report(STEPS[1])
    require_clean(model)
    content = model.SerializeToString()
    name = f"model.{request.precision}.onnx"
    session = OnnxRuntimeSession(content, provider="cpu", device=0, threads=None, name=name)
    try:
        report(STEPS[2])
        bar = bar_of(deployment, request.precision)
        figures = compare(deployment, session, deployment.exported_cases(scale), scale, bar)
        report(STEPS[3])
        # A graph that sees whole pictures has no tiles and no seam.
        whole_only = deployment.whole_only(scale)
        seam = None if whole_only else default_halo(deployment, session)
        golden = _golden(deployment, session, scale)
    finally:
        session.close()
    report(STEPS[4])
    manifest = {
        **_described(checkpoint, deployment, request),
        "tiling": _tiling(deployment, seam, whole_only),
        "memory": deployment.memory(len(content)),
        "files": {name: _file(model, deployment, request)},
        "verification": _verification(figures),
    }
    files = {name: content, **golden}
    return write_bundle(output, manifest, files, force=force), figures


def worst(figures: list[Figures]) -> Figures:
    """The figures of the case with the largest difference."""
    return max(figures, key=lambda f: f.max_abs)


def _described(
    checkpoint: Checkpoint, deployment: Deployment, request: Request
) -> dict[str, Any]:
    return {
        "schema": 1,
        **deployment.described(request.scale),
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
        },
        "condition_numbers": deployment.condition_numbers(),
    }


def _file(model: onnx.ModelProto, deployment: Deployment, request: Request) -> dict[str, Any]:
    return {
        "precision": request.precision,
        "opset": request.opset,
        "islands": [] if request.precision == "fp32" else list(deployment.islands),
        "multiply_adds": deployment.work(model, request.scale),
    }


def _tiling(deployment: Deployment, seam: Seam | None, whole_only: bool) -> dict[str, Any]:
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


def _golden(
    deployment: Deployment, session: OnnxRuntimeSession, scale: Fraction | None
) -> dict[str, bytes]:
    """A small input and its output, for self-tests in any language."""
    h, w = GOLDEN_LR
    used = scale or deployment.scale or GOLDEN_SCALE
    size = (output_size(h, used), output_size(w, used))
    feeds = deployment.feeds(Case(GOLDEN_LR, size), scale)
    case: dict[str, Any] = {"input": "input.png", "output": "output.npy", "size": list(size)}
    if deployment.latents:
        case.update(seed=0, temperature=TEMPERATURE)
    output = session.run(feeds)
    picture = np.rint(feeds["input"][0].transpose(1, 2, 0) * EIGHT_BIT).astype(np.uint8)
    png, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    np.save(array, output[0])
    return {
        "golden/input.png": png.getvalue(),
        "golden/output.npy": array.getvalue(),
        "golden/case.json": (json.dumps(case, indent=1) + "\n").encode(),
    }


def _verification(figures: list[Figures]) -> dict[str, Any]:
    most = worst(figures)
    least = min(f.psnr for f in figures)
    return {
        "reference": f"PyTorch {torch.__version__.split('+')[0]}, float32",
        "backend": "onnxruntime cpu",
        "cases": len(figures),
        "max_abs": most.max_abs,
        "max_steps": max(f.max_steps for f in figures),
        "p999_steps": max(f.p999_steps for f in figures),
        "psnr": least if math.isfinite(least) else None,
        "worst_case": str(most.case),
    }
