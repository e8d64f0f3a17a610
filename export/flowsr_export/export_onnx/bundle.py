"""Export a checkpoint to a verified bundle, or add a precision to one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment, Precision
from flowsr_export.export_onnx.latents import check_latents, latent_models
from flowsr_export.export_onnx.manifest import (
    Request,
    draft_manifest,
    model_fields,
    tiling_fields,
)
from flowsr_export.export_onnx.model import STEPS, Runner, verified_model
from flowsr_export.export_onnx.seam import default_halo
from flowsr_export.export_onnx.size_fixed import SizeFixed, check_equal, size_fixed_models
from flowsr_export.export_onnx.stages import check_stages, stage_models
from flowsr_export.inputs.cases import TEMPERATURE, Case
from flowsr_export.parity.compare import ErrorStats
from flowsr_export.parity.reference import restated_scale
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, output_size, write_bundle
from flowsr_runtime.bundle.directory import extend_bundle

__all__ = ["add_precision", "build_bundle"]

GOLDEN_LR = (16, 20)
GOLDEN_SCALE = Fraction("2.5")
EIGHT_BIT = 255


def build_bundle(
    checkpoint: Checkpoint,
    output: Path,
    request: Request,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
    fixed: SizeFixed | None = None,
    stages: bool = False,
    latents: bool = False,
) -> tuple[Bundle, list[ErrorStats]]:
    """Export a network and save it only if it agrees with PyTorch.

    Args:
        checkpoint: The network.
        output: Directory of the bundle.
        request: Settings of the export.
        force: Replace an existing bundle.
        report: Called with each of `STEPS`, and for each size-fixed graph, when it begins.
        fixed: Size-fixed graphs to add; None for none.
        stages: Also export the graph in two stages, for several scales of one image.
        latents: Also export the graphs of latents.

    Returns:
        The bundle, and its differences from PyTorch, those of the size-fixed graphs last.

    Raises:
        UsageError: If the graph has no stages.
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch, or its stages differ from it.
        OutputError: If the bundle cannot be written, or exists and `force` is not set.
    """
    deployment, scale = deployment_of(checkpoint.network), request.scale
    deployment.set_guard(request.guard)
    if stages:
        check_stages(deployment, request)
    if latents:
        check_latents(deployment, request)
    with verified_model(checkpoint, deployment, request, report) as model:
        report(STEPS[3])
        whole_only = deployment.whole_only(scale)  # no tiles, no seam
        seam = None if whole_only else default_halo(deployment, model.float_session)
        golden = _golden(deployment, model.session, request)
    models = [] if fixed is None else size_fixed_models(checkpoint, request, fixed, report)
    if fixed is not None:
        check_equal(draft_manifest(checkpoint, request), model.content, models, fixed)
    staged = None
    if stages:
        staged = stage_models(checkpoint, deployment, request, model.content, report)
    coded = latent_models(checkpoint, deployment, request, report) if latents else None
    report(STEPS[4])
    entry = dict(model.entry)
    manifest = {
        **model_fields(checkpoint, deployment, request),
        "tiling": tiling_fields(deployment, seam, whole_only),
        "memory": deployment.memory(len(model.content), seam.halo if seam else None),
        "verification": entry.pop("verification"),
        "files": {model.name: entry, **{one.name: one.entry for one in models}},
    }
    if models:
        manifest["graphs"] = [one.graph for one in models]
    if staged is not None:
        manifest["stages"] = [staged.pair]
        manifest["files"] |= staged.entries
    if coded is not None:
        manifest["latent_graphs"] = coded.entry
        manifest["files"] |= coded.entries
    files = {model.name: model.content, **{one.name: one.content for one in models}, **golden}
    for added in (staged, coded):
        files |= {} if added is None else added.contents
    stats = [*model.stats, *(one.stats for one in models)]
    return write_bundle(output, manifest, files, force=force), stats


def add_precision(
    bundle: Bundle,
    checkpoint: Checkpoint,
    precision: Precision,
    report: Callable[[str], None] = lambda step: None,
) -> tuple[Bundle, list[ErrorStats]]:
    """Add the graph of another precision to a bundle.

    Args:
        bundle: The bundle; its present files stay.
        checkpoint: The network it was exported from; see `reference_of`.
        precision: Data type of the heavy layers.
        report: Called with each step when it begins.

    Returns:
        The bundle with `model.<precision>.onnx`, and its differences from PyTorch.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
        OutputError: If the file exists already or cannot be written.
    """
    deployment = deployment_of(checkpoint.network)
    scale = restated_scale(bundle, deployment)
    request = Request(precision, scale, io=bundle.manifest.io)
    with verified_model(checkpoint, deployment, request, report) as model:
        content, entry = {model.name: model.content}, {model.name: model.entry}
        return extend_bundle(bundle.path, content, entry), model.stats


def _golden(deployment: Deployment, session: Runner, request: Request) -> dict[str, bytes]:
    """Make a small input and its output, for self-tests in any language."""
    h, w = GOLDEN_LR
    scale = request.scale or deployment.scale or GOLDEN_SCALE
    size = (output_size(h, scale), output_size(w, scale))
    feeds = deployment.feeds(Case(GOLDEN_LR, size), request.scale)
    case: dict[str, Any] = {"input": "input.png", "output": "output.npy", "size": list(size)}
    case["max_abs"] = deployment.max_abs
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
