"""From checkpoints to a bundle: export, lint, compare, measure, write."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from PIL import Image

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment, Precision
from flowsr_export.export_onnx.exporter import onnx_from_deployment
from flowsr_export.export_onnx.seam import Seam, default_halo
from flowsr_export.inputs.cases import TEMPERATURE, Case
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_export.onnx_graph.uint8_io import Uint8Session, with_uint8_io
from flowsr_export.parity.compare import ErrorStats, compare, tolerance_for
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, ParityError, UsageError, output_size, write_bundle
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.manifest import Io, Manifest

__all__ = [
    "STEPS",
    "CheckedModel",
    "Request",
    "build_bundle",
    "checked_model",
    "draft_manifest",
    "runner_of",
    "worst",
]

Runner = OnnxRuntimeSession | HalfPrecisionEmulator | Uint8Session

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
        opset: ONNX operator set; None for the usual one of the precision.
        licence: What the manifest says of the weights' licence.
        io: Type of the graph's pictures; uint8 is for fp32 and fp16.
    """

    precision: Precision = "fp32"
    scale: Fraction | None = None
    opset: int | None = None
    licence: str = "see the checkpoint's source"
    io: Io = "float32"

    def __post_init__(self) -> None:
        if self.io == "uint8" and self.precision == "bf16":
            raise UsageError(
                "io uint8 is for fp32 and fp16: no CPU runs a bf16 file to check it"
            )


@dataclass(frozen=True)
class CheckedModel:
    """A graph that is what PyTorch computes.

    Attributes:
        name: Its name in a bundle.
        content: The ONNX file.
        plain: The same with pictures in float32, by which seams are measured.
        entry: What the manifest says of it, its verification included.
        figures: Of its comparison with PyTorch; in half precision those of the rounding.
    """

    name: str
    content: bytes
    plain: bytes
    entry: dict[str, Any]
    figures: list[ErrorStats]


def build_bundle(
    checkpoint: Checkpoint,
    output: Path,
    request: Request,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> tuple[Bundle, list[ErrorStats]]:
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
    checked = checked_model(checkpoint, deployment, request, report)
    run = runner_of(checked.plain, deployment, replace(request, io="float32"))
    try:
        report(STEPS[3])
        # A graph that sees whole pictures has no tiles and no seam.
        whole_only = deployment.whole_only(scale)
        seam = None if whole_only else default_halo(deployment, run)
    finally:
        run.close()
    golden = _golden(deployment, checked.content, request)
    report(STEPS[4])
    entry = dict(checked.entry)
    manifest = {
        **_described(checkpoint, deployment, request),
        "tiling": _tiling(deployment, seam, whole_only),
        "memory": deployment.memory(len(checked.content), seam.halo if seam else None),
        "verification": entry.pop("verification"),
        "files": {checked.name: entry},
    }
    files = {checked.name: checked.content, **golden}
    return write_bundle(output, manifest, files, force=force), checked.figures


def draft_manifest(checkpoint: Checkpoint, request: Request) -> Manifest:
    """Return a manifest of what would be built, without building it.

    Nothing is measured: tiles overlap by the whole receptive field, and there are no files.

    Args:
        checkpoint: The network.
        request: What would be built.
    """
    deployment = deployment_of(checkpoint.network)
    whole_only = deployment.whole_only(request.scale)
    raw = {
        **_described(checkpoint, deployment, request),
        "tiling": _tiling(deployment, None, whole_only),
        "memory": deployment.memory(0, None if whole_only else deployment.exact_halo()),
        "files": {},
    }
    return Manifest.parse(raw)


def checked_model(
    checkpoint: Checkpoint,
    deployment: Deployment,
    request: Request,
    report: Callable[[str], None] = lambda step: None,
) -> CheckedModel:
    """Export a graph, lint it and compare it with PyTorch.

    Args:
        checkpoint: The network.
        deployment: How it is deployed.
        request: What to build.
        report: Called with each of the first three `STEPS` when it begins.

    Returns:
        The file and what the manifest says of it.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
    """
    report(STEPS[0])
    identity = {
        "model_sha256": checkpoint.model_sha256,
        "prior_sha256": checkpoint.prior_sha256,
    }
    precision, scale = request.precision, request.scale
    model = onnx_from_deployment(
        deployment, precision, scale, request.opset, {"flowsr-lp": identity}
    )
    report(STEPS[1])
    require_clean(model)
    content = model.SerializeToString()
    report(STEPS[2])
    run = runner_of(content, deployment, replace(request, io="float32"))
    bar, cases = tolerance_for(deployment, precision), deployment.exported_cases(scale)
    try:
        figures = compare(deployment, run, cases, scale, bar)
    finally:
        run.close()
    entry = {
        "precision": precision,
        "opset": model.opset_import[0].version,
        "islands": [] if precision == "fp32" else list(deployment.islands),
        "multiply_adds": deployment.work(model, scale),
        "verification": _verification(figures, run),
    }
    if precision == "fp16":
        # What a CPU makes of the file is float32 between casts: PyTorch rounds as a GPU does.
        rounded = HalfPrecisionEmulator(deployment, precision, scale)
        try:
            figures = compare(deployment, rounded, cases, scale, bar)
        except ParityError as error:
            raise ParityError(f"rounded as on a GPU, {error}") from error
        entry["verification"]["rounding"] = _verification(figures, rounded)
    plain = content
    if request.io == "uint8":
        content, entry["verification"]["eight_bit"] = _in_eight_bits(model, deployment, request)
    return CheckedModel(f"model.{precision}.onnx", content, plain, entry, figures)


def runner_of(content: bytes, deployment: Deployment, request: Request) -> Runner:
    """Open what runs a graph on pictures in [0, 1] on the CPU: for bfloat16 that is PyTorch.

    Args:
        content: The ONNX file.
        deployment: The network that it was made of.
        request: What was built.

    Returns:
        What runs it; close it after use.
    """
    if request.precision == "bf16":
        return HalfPrecisionEmulator(deployment, request.precision, request.scale)
    name = f"model.{request.precision}.onnx"
    run = OnnxRuntimeSession(content, provider="cpu", device=0, threads=None, name=name)
    return Uint8Session(run) if request.io == "uint8" else run


def _in_eight_bits(
    model: ModelProto, deployment: Deployment, request: Request
) -> tuple[bytes, dict[str, Any]]:
    """Give a checked graph pictures of eight bits, and check it again in their steps."""
    made = with_uint8_io(model)
    require_clean(made)
    content = made.SerializeToString()
    run = runner_of(content, deployment, request)
    bar = tolerance_for(deployment, request.precision, request.io)
    try:
        cases = deployment.exported_cases(request.scale)
        figures = compare(deployment, run, cases, request.scale, bar)
    finally:
        run.close()
    return content, _verification(figures, run)


def worst(figures: list[ErrorStats]) -> ErrorStats:
    """The figures of the case with the largest difference."""
    return max(figures, key=lambda f: f.max_abs)


def _described(
    checkpoint: Checkpoint, deployment: Deployment, request: Request
) -> dict[str, Any]:
    described = deployment.manifest_fields(request.scale)
    described["picture"]["io"] = request.io
    if request.io == "uint8":
        described["picture"]["range"] = [0, EIGHT_BIT]
    return {
        "schema": 1,
        **described,
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


def _golden(deployment: Deployment, content: bytes, request: Request) -> dict[str, bytes]:
    """A small input and its output, for self-tests in any language."""
    h, w = GOLDEN_LR
    used = request.scale or deployment.scale or GOLDEN_SCALE
    size = (output_size(h, used), output_size(w, used))
    feeds = deployment.feeds(Case(GOLDEN_LR, size), request.scale)
    case: dict[str, Any] = {"input": "input.png", "output": "output.npy", "size": list(size)}
    if deployment.latents:
        case.update(seed=0, temperature=TEMPERATURE)
    run = runner_of(content, deployment, request)
    try:
        output = run.run(feeds)
    finally:
        run.close()
    picture = np.rint(feeds["input"][0].transpose(1, 2, 0) * EIGHT_BIT).astype(np.uint8)
    png, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture).save(png, "PNG")
    np.save(array, output[0])
    return {
        "golden/input.png": png.getvalue(),
        "golden/output.npy": array.getvalue(),
        "golden/case.json": (json.dumps(case, indent=1) + "\n").encode(),
    }


def _verification(figures: list[ErrorStats], run: Runner) -> dict[str, Any]:
    most = worst(figures)
    least = min(f.psnr for f in figures)
    return {
        "reference": f"PyTorch {torch.__version__.split('+')[0]}, float32",
        "backend": f"{run.backend} {run.provider}",
        "cases": len(figures),
        "max_abs": most.max_abs,
        "max_steps": max(f.max_steps for f in figures),
        "p999_steps": max(f.p999_steps for f in figures),
        "psnr": least if math.isfinite(least) else None,
        "worst_case": str(most.case),
    }
