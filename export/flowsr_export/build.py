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

from flowsr_export.fold import condition_numbers
from flowsr_export.lint import require_clean
from flowsr_export.onnx_export import DEFAULT_OPSET, Precision, onnx_from_network
from flowsr_export.parity import (
    BARS,
    TEMPERATURE,
    Case,
    Figures,
    compare,
    exported_cases,
    feeds_of,
)
from flowsr_export.receptive import Seam, default_halo, exact_halo
from flowsr_export.workload import multiply_adds, per_pixel_and_patch
from flowsr_lp import Checkpoint, LinfLP
from flowsr_runtime import Bundle, output_size, write_bundle
from flowsr_runtime.geometry import Halo
from flowsr_runtime.onnxruntime_session import OnnxRuntimeSession

__all__ = ["STEPS", "Request", "build_bundle", "worst"]

# Layers that stay float32 in a half-precision graph, as the manifest names them.
ISLANDS = ["geometry", "phase", "flow", "sum"]
GOLDEN_LR = (16, 20)
GOLDEN_SCALE = Fraction("2.5")
EIGHT_BIT = 255
WORK_LR = 64  # side at which the work of a graph of one scale is counted
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
    network = checkpoint.network
    report(STEPS[0])
    identity = {
        "model_sha256": checkpoint.model_sha256,
        "prior_sha256": checkpoint.prior_sha256,
    }
    model = onnx_from_network(
        network, request.precision, request.scale, request.opset, {"flowsr-lp": identity}
    )
    report(STEPS[1])
    require_clean(model)
    content = model.SerializeToString()
    name = f"model.{request.precision}.onnx"
    session = OnnxRuntimeSession(content, provider="cpu", device=0, threads=None, name=name)
    try:
        report(STEPS[2])
        bar = BARS[request.precision]
        cases = exported_cases(request.scale)
        figures = compare(network, session, cases, request.scale is not None, bar)
        report(STEPS[3])
        exact = exact_halo(network)
        # A graph of one scale sees whole pictures: it has no tiles and no seam.
        seam = default_halo(network, session) if request.scale is None else None
        golden = _golden(network, session, request.scale)
    finally:
        session.close()
    report(STEPS[4])
    manifest = {
        **_described(checkpoint, request),
        "tiling": _tiling(seam, exact),
        "memory": _memory(network, len(content)),
        "files": {name: _file(model, network, request)},
        "verification": _verification(figures),
    }
    files = {name: content, **golden}
    return write_bundle(output, manifest, files, force=force), figures


def worst(figures: list[Figures]) -> Figures:
    """The figures of the case with the largest difference."""
    return max(figures, key=lambda f: f.max_abs)


def _described(checkpoint: Checkpoint, request: Request) -> dict[str, Any]:
    network = checkpoint.network
    channels = network.linf.width
    return {
        "schema": 1,
        "family": "linf-lp",
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
        "scale": {"kind": "fixed", "value": str(request.scale)}
        if request.scale
        else {"kind": "any"},
        "picture": {"colour": "RGB", "range": [0.0, 1.0], "layout": "NCHW"},
        "border": "extend",
        "latent": None if network.prior else {"channels": channels},
        "condition_numbers": condition_numbers(network.linf.imnet),
    }


def _file(model: onnx.ModelProto, network: LinfLP, request: Request) -> dict[str, Any]:
    return {
        "precision": request.precision,
        "opset": request.opset,
        "islands": [] if request.precision == "fp32" else ISLANDS,
        "multiply_adds": _work(model, network, request.scale),
    }


def _work(model: onnx.ModelProto, network: LinfLP, scale: Fraction | None) -> dict[str, int]:
    """Multiply-adds as the manifest states them, counted from the graph."""
    if scale is None:
        pixel, patch = per_pixel_and_patch(model, network.linf.patch_size)
        return {"per_lr_pixel": round(pixel), "per_patch": round(patch)}
    shapes: dict[str, tuple[int, ...]] = {"input": (1, 3, WORK_LR, WORK_LR)}
    if network.prior is None:
        side = output_size(WORK_LR, scale)
        shapes["latent"] = (1, network.linf.width, *network.latent_size((side, side)))
    total = multiply_adds(model, shapes).total
    return {"per_lr_pixel": round(total / WORK_LR**2), "per_patch": 0}


def _tiling(seam: Seam | None, exact: Halo) -> dict[str, Any]:
    halo = seam.halo if seam else exact
    return {
        "patch": exact.patch,
        "align": exact.align,
        "lr_align": exact.lr_align,
        "halo_patches": halo.patches,
        "halo_pixels": halo.pixels,
        "exact_patches": exact.patches,
        "exact_pixels": exact.pixels,
        "seam_steps": round(seam.steps, 4) if seam else None,
    }


def _memory(network: LinfLP, weights: int) -> dict[str, int]:
    """Peak activation memory, bytes; checked against measured peaks of ONNX Runtime.

    The peak lies at the Fourier features: per patch four quarters of four neighbours by half
    the hidden width and the flow's factors and shifts, a fifth on top; per low-resolution
    pixel the feature tables. Measured at 128×128 ×4: 4.6 KB per patch for 96 hidden channels
    and 324 outputs, 9.7 KB for 256 and 540.
    """
    hidden = network.linf.coef.out_channels
    features = network.linf.coef.in_channels
    flow = 2 * network.linf.flow_layers * network.linf.width
    return {
        "base_bytes": weights + (16 << 20),
        "bytes_per_pixel": 4 * 2 * (hidden + features),
        "bytes_per_patch": round(1.2 * 4 * (8 * hidden + flow)),
    }


def _golden(
    network: LinfLP, session: OnnxRuntimeSession, scale: Fraction | None
) -> dict[str, bytes]:
    """A small input and its output, for self-tests in any language."""
    h, w = GOLDEN_LR
    used = scale or GOLDEN_SCALE
    size = (output_size(h, used), output_size(w, used))
    feeds = feeds_of(network, Case(GOLDEN_LR, size), scale is not None)
    case: dict[str, Any] = {"input": "input.png", "output": "output.npy", "size": list(size)}
    if "latent" in feeds:
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
