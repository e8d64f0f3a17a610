"""The ONNX backends of a certificate among each other, by Polygraphy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowsr_export.certificate.candidates import Candidate
from flowsr_export.certificate.cases import CertificateCase
from flowsr_export.deployment.interface import Deployment
from flowsr_export.parity.compare import tolerance_for
from flowsr_export.parity.reference import restated_scale
from flowsr_export.parity.session_comparison import (
    Comparison,
    MetricLimit,
    compare_sessions,
    open_session,
    tolerance_of,
)
from flowsr_runtime import Bundle

__all__ = ["compare_backends"]

COMPARED_LR = (23, 37)
EIGHT_BIT = 255


def compare_backends(
    bundle: Bundle,
    deployment: Deployment,
    subjects: Sequence[Candidate],
    trials: Sequence[CertificateCase],
) -> list[Comparison] | None:
    """Let Polygraphy compare ONNX Runtime's providers and precisions with the first of them.

    The first graph as ONNX Runtime rewrites it is compared with the graph as it is, too: so
    there are two even where there is one provider and one precision.

    Args:
        bundle: The bundle.
        deployment: Its network.
        subjects: What the certificate is about; engines stand for the graphs that they were
            built of, on the CPU.
        trials: Of the certificate; the photographs of one size among them are run.

    Returns:
        The comparisons; None where there is one session, or none.

    Raises:
        ParityError: If Polygraphy could not compare.
    """
    own = _on_onnxruntime(subjects)
    io = bundle.manifest.io
    sessions, tolerances = {}, {}
    for name, subject, provider, device in own:
        assert subject.file is not None
        content = bundle.read(subject.file)
        sessions[name] = open_session(content, provider, device)
        tolerances[name] = _tolerance(deployment, own[0][1].precision, subject.precision, io)
        if len(sessions) == 1 and subject.precision != "bf16":  # no CPU runs that
            plain = f"onnxruntime cpu {subject.precision}, not optimised"
            sessions[plain] = open_session(content, optimized=False)
            tolerances[plain] = tolerances[name]
    if len(sessions) < 2:
        return None
    scale = restated_scale(bundle, deployment)
    feeds = [
        deployment.feeds(trial.case, scale)
        for trial in trials
        if trial.picture == "photographs" and trial.case.lr == COMPARED_LR
    ]
    if io == "uint8":
        for feed in feeds:
            feed["input"] = np.rint(feed["input"] * EIGHT_BIT).astype(np.uint8)
    return compare_sessions(sessions, feeds, tolerances)


def _on_onnxruntime(subjects: Sequence[Candidate]) -> list[tuple[str, Candidate, str, int]]:
    """Name, subject, provider and device of what Polygraphy runs.

    Where the subjects are engines, it is the graphs that they were built of, on the CPU.
    """
    graphs = [subject for subject in subjects if subject.file]
    found = [
        (subject.name, subject, subject.session.provider, subject.session.device)
        for subject in graphs
        if subject.session.backend == "onnxruntime"
    ]
    return found or [
        (f"onnxruntime cpu {subject.precision}", subject, "cpu", 0)
        for subject in graphs
        if subject.precision != "bf16"
    ]


def _tolerance(deployment: Deployment, first: str, other: str, io: str) -> MetricLimit:
    """Return the looser of the bars of two precisions, in Polygraphy's terms."""
    return tolerance_of(tolerance_for(deployment, first if other == "fp32" else other, io), io)
