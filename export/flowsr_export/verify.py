"""Comparing a bundle with the checkpoint that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from flowsr_export.parity import (
    BARS,
    Case,
    Figures,
    compare,
    photographs,
    verify_cases,
)
from flowsr_lp import Checkpoint, LinfLP, embedded_checkpoint, load_checkpoint
from flowsr_lp.linf import low_frequency_residual
from flowsr_runtime import Bundle, ParityError, UsageError, embedded_bundle, open_session

__all__ = ["ROUND_TRIP_BAR", "Verification", "reference_of", "round_trip", "verify"]

# Largest relative error of decode(encode(x)) against x, float32.
ROUND_TRIP_BAR = 1e-4
ROUND_TRIP_LR = (24, 24)
# Not an odd multiple: there the low-frequency residual is zero.
ROUND_TRIP_SIZE = (96, 96)


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        bundle: The bundle.
        backend: Inference library and what it computed with, as "onnxruntime cpu".
        precision: Which of the bundle's graphs ran.
        figures: One entry per case.
        round_trip: Largest relative error of the flow's inverse(forward(x)) in PyTorch.
    """

    bundle: Bundle
    backend: str
    precision: str
    figures: list[Figures]
    round_trip: float


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
    checkpoint = load_checkpoint(model, prior)
    stated = bundle.manifest.raw.get("model")
    found = {"model_sha256": checkpoint.model_sha256, "prior_sha256": checkpoint.prior_sha256}
    if not isinstance(stated, dict) or found != {key: stated.get(key) for key in found}:
        given = f"{model}" if prior is None else f"{model} and {prior}"
        raise UsageError(
            f"bundle {bundle.path} was not made of {given}; give its checkpoints with --model "
            "and --prior"
        )
    return checkpoint


def verify(
    bundle: Bundle | None,
    model: Path | None = None,
    prior: Path | None = None,
    *,
    backend: str = "onnxruntime",
    provider: str = "cpu",
    device: int = 0,
    threads: int | None = None,
    precision: str = "fp32",
    start: Callable[[int], None] = lambda total: None,
    advance: Callable[[str], None] = lambda note: None,
) -> Verification:
    """Compare a bundle with PyTorch over scales, sizes, borders and batches.

    Args:
        bundle: The bundle; None for the built-in one.
        model: Checkpoint of its flow; None for the built-in one.
        prior: Checkpoint of its latent module.
        backend: Inference library.
        provider: ONNX Runtime's execution provider.
        device: Number of the GPU.
        threads: CPU threads; None for all cores.
        precision: Which of the bundle's graphs to run.
        start: Called once with the number of cases.
        advance: Called with each case's name when it is done.

    Raises:
        ParityError: If a bar is missed or a figure cannot be computed.
        UsageError: If the checkpoint is not the bundle's.
    """
    bundle = bundle or Bundle.open(embedded_bundle())
    bundle.check_files()
    checkpoint = reference_of(bundle, model, prior)
    trip = round_trip(checkpoint.network)
    if not trip <= ROUND_TRIP_BAR:
        raise ParityError(
            f"flow's inverse(forward(x)) must be x within {ROUND_TRIP_BAR:g}, got {trip:.3g}"
        )
    scale = bundle.manifest.scale
    cases = verify_cases(scale)
    start(len(cases))
    session = open_session(
        bundle,
        backend=backend,
        provider=provider,
        device=device,
        threads=threads,
        precision=precision,
    )
    try:
        bar = BARS["fp32" if precision == "fp32" else "fp16"]
        figures = compare(checkpoint.network, session, cases, scale is not None, bar, advance)
    finally:
        session.close()
    return Verification(bundle, f"{backend} {provider}", precision, figures, trip)


def round_trip(network: LinfLP) -> float:
    """Largest error of decode(encode(x)) on a photograph's residual, relative to its range."""
    rgb = torch.from_numpy(photographs(Case(ROUND_TRIP_LR, ROUND_TRIP_SIZE)))
    x = (rgb - 0.5) / 0.5
    with torch.inference_mode():
        residual = low_frequency_residual(x, ROUND_TRIP_SIZE)
        c = network.linf.condition(x, ROUND_TRIP_SIZE, "extend")
        back = network.linf.decode(network.linf.encode(residual, c), c, ROUND_TRIP_SIZE)
    return float((back - residual).abs().max() / residual.abs().max())
