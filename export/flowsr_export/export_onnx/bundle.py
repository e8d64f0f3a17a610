"""Export a checkpoint to a verified bundle, or add a precision to one."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from PIL import Image

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment, Precision
from flowsr_export.export_onnx.exporter import onnx_from_deployment
from flowsr_export.export_onnx.manifest import Request, model_fields, tiling_fields
from flowsr_export.export_onnx.seam import default_halo
from flowsr_export.inputs.cases import TEMPERATURE, Case
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_export.onnx_graph.uint8_io import Uint8Session, with_uint8_io
from flowsr_export.parity.compare import ErrorStats, compare, tolerance_for
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_export.parity.reference import restated_scale
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, ParityError, output_size, write_bundle
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.directory import extend_bundle

__all__ = ["STEPS", "VerifiedModel", "add_precision", "build_bundle", "verified_model", "worst"]

GOLDEN_LR = (16, 20)
GOLDEN_SCALE = Fraction("2.5")
EIGHT_BIT = 255
STEPS = ("export to ONNX", "lint", "compare with PyTorch", "measure the seam", "write")


Runner = OnnxRuntimeSession | HalfPrecisionEmulator | Uint8Session


@dataclass(frozen=True)
class VerifiedModel:
    """An exported graph that agrees with PyTorch.

    Attributes:
        name: File name in a bundle.
        content: The ONNX file.
        entry: The manifest's entry about the file, with its verification.
        stats: Differences from PyTorch; in half precision those of the emulated rounding.
        float_session: Session of the graph with float32 images, for seams.
        session: Session of `content` behind the interface of a float graph.
    """

    name: str
    content: bytes
    entry: dict[str, Any]
    stats: list[ErrorStats]
    float_session: Runner
    session: Runner


def build_bundle(
    checkpoint: Checkpoint,
    output: Path,
    request: Request,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> tuple[Bundle, list[ErrorStats]]:
    """Export a network and save it only if it agrees with PyTorch.

    Args:
        checkpoint: The network.
        output: Directory of the bundle.
        request: Settings of the export.
        force: Replace an existing bundle.
        report: Called with each of `STEPS` when it begins.

    Returns:
        The bundle, and its differences from PyTorch.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
        OutputError: If the bundle cannot be written, or exists and `force` is not set.
    """
    deployment, scale = deployment_of(checkpoint.network), request.scale
    deployment.set_guard(request.guard)
    with verified_model(checkpoint, deployment, request, report) as model:
        report(STEPS[3])
        whole_only = deployment.whole_only(scale)  # no tiles, no seam
        seam = None if whole_only else default_halo(deployment, model.float_session)
        golden = _golden(deployment, model.session, request)
    report(STEPS[4])
    entry = dict(model.entry)
    manifest = {
        **model_fields(checkpoint, deployment, request),
        "tiling": tiling_fields(deployment, seam, whole_only),
        "memory": deployment.memory(len(model.content), seam.halo if seam else None),
        "verification": entry.pop("verification"),
        "files": {model.name: entry},
    }
    files = {model.name: model.content, **golden}
    return write_bundle(output, manifest, files, force=force), model.stats


def add_precision(
    bundle: Bundle,
    checkpoint: Checkpoint,
    precision: Precision,
    report: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Add the graph of another precision to a bundle.

    Args:
        bundle: The bundle; its present files stay.
        checkpoint: The network it was exported from; see `reference_of`.
        precision: Data type of the heavy layers.
        report: Called with each step when it begins.

    Returns:
        The bundle with `model.<precision>.onnx`.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
        OutputError: If the file exists already or cannot be written.
    """
    deployment = deployment_of(checkpoint.network)
    scale = restated_scale(bundle, deployment)
    request = Request(precision, scale, io=bundle.manifest.io)
    with verified_model(checkpoint, deployment, request, report) as model:
        return extend_bundle(
            bundle.path, {model.name: model.content}, {model.name: model.entry}
        )


@contextmanager
def verified_model(
    checkpoint: Checkpoint,
    deployment: Deployment,
    request: Request,
    report: Callable[[str], None] = lambda step: None,
) -> Iterator[VerifiedModel]:
    """Export a graph, lint it and compare it with PyTorch.

    Args:
        checkpoint: The network.
        deployment: Deployment of the network.
        request: Settings of the export.
        report: Called with each of the first three `STEPS` when it begins.

    Yields:
        The model; its sessions are closed at the end.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
    """
    precision, scale = request.precision, request.scale
    cases = deployment.exported_cases(scale)
    report(STEPS[0])
    hashes = {"model_sha256": checkpoint.model_sha256, "prior_sha256": checkpoint.prior_sha256}
    model = onnx_from_deployment(
        deployment, precision, scale, request.opset, {"flowsr-lp": hashes}
    )
    report(STEPS[1])
    content = _linted(model)
    report(STEPS[2])
    tolerance = tolerance_for(deployment, precision)
    with ExitStack() as stack:
        plain = stack.enter_context(closing(_session(content, deployment, request)))
        stats = compare(deployment, plain, cases, scale, tolerance)
        entry = {
            "precision": precision,
            "opset": model.opset_import[0].version,
            "islands": [] if precision == "fp32" else deployment.islands(precision),
            "multiply_adds": deployment.work(model, scale),
            "verification": _verification(stats, plain),
        }
        if precision == "fp16":
            # ONNX Runtime on a CPU computes in float32 between casts: emulate a GPU too.
            emulator = HalfPrecisionEmulator(deployment, precision, scale)
            try:
                stats = compare(deployment, emulator, cases, scale, tolerance)
            except ParityError as error:
                raise ParityError(f"with the rounding of a GPU, {error}") from error
            entry["verification"]["rounding"] = _verification(stats, emulator)
        session: Runner = plain
        if request.io == "uint8":
            content = _linted(with_uint8_io(model))
            raw = stack.enter_context(closing(_session(content, deployment, request)))
            assert isinstance(raw, OnnxRuntimeSession)  # a Request refuses bf16 with uint8
            session = Uint8Session(raw)
            limit = tolerance_for(deployment, precision, request.io)
            in_steps = compare(deployment, session, cases, scale, limit)
            entry["verification"]["eight_bit"] = _verification(in_steps, session)
        yield VerifiedModel(f"model.{precision}.onnx", content, entry, stats, plain, session)


def worst(stats: list[ErrorStats]) -> ErrorStats:
    """Return the statistics of the case with the largest difference."""
    return max(stats, key=lambda case: case.max_abs)


def _linted(model: ModelProto) -> bytes:
    require_clean(model)
    content: bytes = model.SerializeToString()
    return content


def _session(
    content: bytes, deployment: Deployment, request: Request
) -> OnnxRuntimeSession | HalfPrecisionEmulator:
    """Open a graph on the CPU: on ONNX Runtime, or in PyTorch for bfloat16."""
    if request.precision == "bf16":
        return HalfPrecisionEmulator(deployment, request.precision, request.scale)
    name = f"model.{request.precision}.onnx"
    return OnnxRuntimeSession(content, provider="cpu", device=0, threads=None, name=name)


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


def _verification(stats: list[ErrorStats], session: Runner) -> dict[str, Any]:
    most = worst(stats)
    least = min(case.psnr for case in stats)
    return {
        "reference": f"PyTorch {torch.__version__.split('+')[0]}, float32",
        "backend": f"{session.backend} {session.provider}",
        "cases": len(stats),
        "max_abs": most.max_abs,
        "max_steps": max(case.max_steps for case in stats),
        "p999_steps": max(case.p999_steps for case in stats),
        "psnr": least if math.isfinite(least) else None,
        "worst_case": str(most.case),
    }
