"""Export a graph and keep it only if it agrees with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from onnx import ModelProto

from flowsr_export.deployment.interface import Deployment
from flowsr_export.export_onnx.exporter import onnx_from_deployment
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.export_onnx.metadata import graph_metadata
from flowsr_export.inputs.cases import Case
from flowsr_export.onnx_graph.lint import require_clean
from flowsr_export.onnx_graph.multiply_adds import count_macs
from flowsr_export.onnx_graph.uint8_io import Uint8Session, with_uint8_io
from flowsr_export.parity.compare import ErrorStats, compare, tolerance_for
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_lp import Checkpoint
from flowsr_runtime import ParityError
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession

__all__ = ["STEPS", "Runner", "VerifiedModel", "opened", "verified_model", "worst"]

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


@contextmanager
def verified_model(
    checkpoint: Checkpoint,
    deployment: Deployment,
    request: Request,
    report: Callable[[str], None] = lambda step: None,
    sizes: Case | None = None,
) -> Iterator[VerifiedModel]:
    """Export a graph, lint it and compare it with PyTorch.

    Args:
        checkpoint: The network.
        deployment: Deployment of the network.
        request: Settings of the export.
        report: Called with each of the first three `STEPS` when it begins.
        sizes: Sizes and batch that the graph is fixed to; None for any.

    Yields:
        The model; its sessions are closed at the end.

    Raises:
        LintError: If the graph breaks a rule.
        ParityError: If it differs from PyTorch.
    """
    precision, scale = request.precision, request.scale
    cases = deployment.exported_cases(scale) if sizes is None else [sizes]
    report(STEPS[0])
    metadata = graph_metadata(checkpoint, deployment, scale)
    model = onnx_from_deployment(deployment, precision, scale, request.opset, metadata, sizes)
    report(STEPS[1])
    content, tolerance = _linted(model, sizes), tolerance_for(deployment, precision)
    report(STEPS[2])
    with ExitStack() as stack:
        plain = stack.enter_context(closing(_session(content, deployment, request)))
        stats = compare(deployment, plain, cases, scale, tolerance)
        entry = {
            "precision": precision,
            "opset": model.opset_import[0].version,
            "islands": [] if precision == "fp32" else deployment.islands(precision),
            "multiply_adds": _work(deployment, model, scale, sizes),
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
            content = _linted(with_uint8_io(model), sizes)
            raw = stack.enter_context(closing(_session(content, deployment, request)))
            assert isinstance(raw, OnnxRuntimeSession)  # a Request refuses bf16 with uint8
            session = Uint8Session(raw)
            tolerance = tolerance_for(deployment, precision, request.io)
            in_steps = compare(deployment, session, cases, scale, tolerance)
            entry["verification"]["eight_bit"] = _verification(in_steps, session)
        yield VerifiedModel(f"model.{precision}.onnx", content, entry, stats, plain, session)


def opened(content: bytes, name: str) -> OnnxRuntimeSession:
    """Open an ONNX file on the CPU.

    Args:
        content: The file.
        name: Name of the model in messages.
    """
    return OnnxRuntimeSession(content, provider="cpu", device=0, threads=None, name=name)


def worst(stats: list[ErrorStats]) -> ErrorStats:
    """Return the statistics of the case with the largest difference."""
    return max(stats, key=lambda case: case.max_abs)


def _linted(model: ModelProto, sizes: Case | None) -> bytes:
    require_clean(model, size_fixed=sizes is not None)
    content: bytes = model.SerializeToString()
    return content


def _work(
    deployment: Deployment, model: ModelProto, scale: Fraction | None, sizes: Case | None
) -> dict[str, int]:
    """Count the multiply-adds; of a size-fixed graph all per low-resolution pixel."""
    if sizes is None:
        return deployment.work(model, scale)
    feeds = deployment.feeds(sizes, scale)
    total = count_macs(model, {name: x.shape for name, x in feeds.items()}).total
    pixels = sizes.batch * sizes.lr[0] * sizes.lr[1]
    return {"per_lr_pixel": round(total / pixels), "per_patch": 0}


def _session(
    content: bytes, deployment: Deployment, request: Request
) -> OnnxRuntimeSession | HalfPrecisionEmulator:
    """Open a graph on the CPU: on ONNX Runtime, or in PyTorch for bfloat16."""
    if request.precision == "bf16":
        return HalfPrecisionEmulator(deployment, request.precision, request.scale)
    return opened(content, f"model.{request.precision}.onnx")


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
