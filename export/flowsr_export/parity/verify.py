"""Verify a bundle against the checkpoint it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import Case
from flowsr_export.onnx_graph.uint8_io import Uint8Session
from flowsr_export.parity.candidates import open_candidates
from flowsr_export.parity.compare import ErrorStats, compare, tolerance_for
from flowsr_export.parity.reference import reference_of, restated_scale
from flowsr_runtime import (
    Bundle,
    ParityError,
    Session,
    SessionSettings,
    embedded_bundle,
    output_size,
)
from flowsr_runtime.backends.session import AUTO, preferred_precision
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.geometry import MAX_SIDE, Window

__all__ = ["ROUND_TRIP_TOLERANCE", "Verification", "verify"]

# Largest relative error of decode(encode(x)) against x, float32.
ROUND_TRIP_TOLERANCE = 1e-4
LARGEST_LR = 256 * 256  # pixels of an engine's own size that is compared
DEFAULTS = SessionSettings()


@dataclass(frozen=True)
class Verification:
    """Result of `verify`.

    Attributes:
        bundle: The bundle.
        precision: Precision of the graph that ran.
        round_trip: Largest relative error of the flow's inverse(forward(x)) in PyTorch.
        runs: Statistics of every case by backend, such as "onnxruntime cpu".
        not_started: Reasons by installed provider that did not start.
        size_fixed: Files of the size-fixed graphs that ran, by their cases.
    """

    bundle: Bundle
    precision: str
    round_trip: float
    runs: dict[str, list[ErrorStats]]
    not_started: dict[str, str]
    size_fixed: dict[Case, str]


def verify(
    bundle: Bundle | None,
    model: Path | None = None,
    prior: Path | None = None,
    settings: SessionSettings = DEFAULTS,
    *,
    start: Callable[[int], None] = lambda total: None,
    advance: Callable[[str], None] = lambda note: None,
) -> Verification:
    """Compare a bundle with PyTorch over scales, sizes, borders and batches.

    Args:
        bundle: The bundle; None for the built-in one.
        model: Checkpoint of the flow; None for the built-in one.
        prior: Checkpoint of the latent module.
        settings: Settings of the session; without a provider, every provider of ONNX Runtime
            that starts is compared. Precision auto is fp32, or the only one.
        start: Called once with the number of comparisons.
        advance: Called with the name of each finished case.

    Raises:
        ParityError: If a tolerance is violated.
        ProviderError: If the requested provider, or the CPU, does not start.
        UsageError: If the bundle was exported from other checkpoints.
    """
    bundle = bundle or Bundle.open(embedded_bundle())
    precision = settings.precision
    if precision == AUTO:
        precision = preferred_precision(bundle, on_gpu=False)
    deployment, trip = _sound(bundle, model, prior)
    cases = deployment.verify_cases(restated_scale(bundle, deployment))
    # Of a size that is among the cases of any size, the size-fixed graph runs.
    fixed = {Case(g.lr, g.size, g.batch): g.file for g in bundle.size_fixed(precision)}
    with ExitStack() as stack:
        sessions, not_started = open_candidates(bundle, settings, [precision], stack)
        listed = {
            f"{session.backend} {session.provider}": (
                session,
                # Other backends have engines, and no size-fixed graphs.
                list(dict.fromkeys([*cases, *fixed]))
                if session.backend == "onnxruntime"
                else cases_taken(bundle, session, cases),
            )
            for session in sessions.values()
        }
        start(sum(len(sizes) for _, sizes in listed.values()))
        runs = {
            name: _compared(deployment, session, sizes, bundle, precision, advance)
            for name, (session, sizes) in listed.items()
        }
    return Verification(bundle, precision, trip, runs, not_started, fixed)


def cases_taken(bundle: Bundle, session: Session, cases: Sequence[Case]) -> list[Case]:
    """Return the cases that a session takes.

    Args:
        bundle: Bundle of the session.
        session: The session.
        cases: Cases for a session of any size.

    Returns:
        `cases`; of Inductor's engines, which may be of few sizes, those of single images that
        they take whole, and the ends of their ranges.
    """
    limits, scale = session.limits, bundle.manifest.scale
    if session.backend != "inductor" or limits is None:
        return list(cases)
    taken = [case for case in cases if case.batch == 1 and _is_taken(limits, case)]
    for rows, columns in limits.profiles:
        for end in (0, 1):
            lr = rows.lr_size[end], columns.lr_size[end]
            size = rows.out_size[end], columns.out_size[end]
            if scale is not None:
                size = output_size(lr[0], scale), output_size(lr[1], scale)
            if lr[0] * lr[1] <= LARGEST_LR and max(size) <= MAX_SIDE:
                taken.append(Case(lr, size))
    return list(dict.fromkeys(taken))


def _is_taken(limits: ProfileLimits, case: Case) -> bool:
    window = Window.whole(case.lr, case.size)
    return any(
        rows.covers(window.rows) and columns.covers(window.columns)
        for rows, columns in limits.profiles
    )


def _compared(
    deployment: Deployment,
    session: Session,
    cases: list[Case],
    bundle: Bundle,
    precision: str,
    advance: Callable[[str], None],
) -> list[ErrorStats]:
    """Compare one session with PyTorch."""
    io, scale = bundle.manifest.io, restated_scale(bundle, deployment)
    tolerance = replace(tolerance_for(deployment, precision, io), in_range=True)
    run = Uint8Session(session) if io == "uint8" else session
    return compare(deployment, run, cases, scale, tolerance, advance)


def _sound(bundle: Bundle, model: Path | None, prior: Path | None) -> tuple[Deployment, float]:
    """Check the bundle's files and the flow's round trip; return network and error."""
    bundle.check_files()
    deployment = deployment_of(reference_of(bundle, model, prior).network)
    trip = deployment.round_trip()
    if not trip <= ROUND_TRIP_TOLERANCE:
        raise ParityError(
            f"flow's inverse(forward(x)) must be x within {ROUND_TRIP_TOLERANCE:g}, "
            f"got {trip:.3g}"
        )
    return deployment, trip
