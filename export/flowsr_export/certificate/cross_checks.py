"""Cross-checks of a certificate: ONNX backends with each other, and weights with PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from flowsr_export.certificate.candidates import QUANTIZED, Candidate
from flowsr_export.certificate.cases import CertificateCase
from flowsr_export.deployment.interface import DTYPES, Deployment
from flowsr_export.parity.compare import tolerance_for
from flowsr_export.parity.reference import restated_scale
from flowsr_export.parity.session_comparison import (
    Comparison,
    compare_sessions,
    metric_limit,
    open_session,
)
from flowsr_runtime import Bundle
from flowsr_runtime.pictures.depth import to_depth

__all__ = ["Weights", "compare_backends", "compare_weights"]

COMPARED_LR = (23, 37)
# Inverses and norms are folded in float64: another library may round a value differently, by
# one step of the stored type. A weight that is 1 % off differs by more in each of them.
STEPS = {"fp32": 1e-6, "fp16": 1e-3, "bf16": 8e-3}
TINY = 1e-7  # share of the tensor's largest value below which differences are ignored
UINT8_CONSTANTS = "eight_bit."  # prefix of the constants that convert from and to eight bits


@dataclass(frozen=True)
class Weights:
    """Comparison of the weights in one file.

    Attributes:
        file: The file.
        tensors: Compared tensors: those with the name of a parameter.
        values: Numbers in them.
        limit: Largest accepted relative difference of a value.
        changed: Names of the tensors that are not the network's.
    """

    file: str
    tensors: int
    values: int
    limit: float
    changed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there are weights and each is the network's."""
        return self.tensors > 0 and not self.changed


def compare_backends(
    bundle: Bundle,
    deployment: Deployment,
    candidates: Sequence[Candidate],
    cases: Sequence[CertificateCase],
) -> list[Comparison] | None:
    """Compare ONNX Runtime's providers and precisions with the first of them, by Polygraphy.

    The first graph optimized by ONNX Runtime is also compared with the unoptimized graph, so
    that there are two sessions even with one provider and one precision.

    Args:
        bundle: The bundle.
        deployment: Network of the bundle.
        candidates: Candidates of the certificate; engines are represented by the graphs that
            they were built from, on the CPU.
        cases: Cases of the certificate; the photographs of one size are run.

    Returns:
        The comparisons; None where there is at most one session.

    Raises:
        ParityError: If Polygraphy could not compare.
    """
    graphs = _on_onnxruntime(candidates)
    io = bundle.manifest.io
    sessions, tolerances = {}, {}
    for name, candidate, provider, device in graphs:
        assert candidate.file is not None
        content = bundle.read(candidate.file)
        sessions[name] = open_session(content, provider, device, precision=candidate.precision)
        reference = graphs[0][1].precision
        looser = reference if candidate.precision == "fp32" else candidate.precision
        tolerances[name] = metric_limit(tolerance_for(deployment, looser, io), io)
        if len(sessions) == 1 and candidate.precision != "bf16":  # no CPU runs bf16
            plain = f"onnxruntime cpu {candidate.precision}, not optimized"
            sessions[plain] = open_session(content, optimized=False)
            tolerances[plain] = tolerances[name]
    if len(sessions) < 2:
        return None
    scale = restated_scale(bundle, deployment)
    feeds = [
        deployment.feeds(case.sizes, scale)
        for case in cases
        if case.picture == "photographs" and case.sizes.lr == COMPARED_LR
    ]
    if io == "uint8":
        for feed in feeds:
            feed["input"] = to_depth(feed["input"], 8)
    return compare_sessions(sessions, feeds, tolerances)


def compare_weights(
    deployment: Deployment, scale: Fraction | None, candidates: Sequence[Candidate]
) -> tuple[list[Weights], dict[str, str]]:
    """Compare the weights of every file with those of the network restated in PyTorch.

    This shows small changes of unimportant weights, which outputs hardly show.

    Args:
        deployment: The network.
        scale: Scale that the graphs were restated with, None for any.
        candidates: Candidates whose files are read.

    Returns:
        One entry for each file, and by name the reason why others are not compared.
    """
    files = {c.file: c for c in candidates if c.file is not None}
    compared: list[Weights] = []
    not_compared: dict[str, str] = {}
    for name, candidate in files.items():
        if candidate.precision in QUANTIZED:
            not_compared[f"weights of {name}"] = "equalized, corrected and quantized"
            continue
        graph = deployment.graph(DTYPES[candidate.precision], scale)
        own = {key: x.detach().float().numpy() for key, x in graph.state_dict().items()}
        compared.append(_compare_file(name, candidate, own))
    return compared, not_compared


def _on_onnxruntime(
    candidates: Sequence[Candidate],
) -> list[tuple[str, Candidate, str, int]]:
    """Return name, candidate, provider and device of each graph that Polygraphy runs."""
    graphs = [candidate for candidate in candidates if candidate.file]
    own = [
        (candidate.name, candidate, candidate.session.provider, candidate.session.device)
        for candidate in graphs
        if candidate.session.backend == "onnxruntime"
    ]
    return own or [
        (f"onnxruntime cpu {candidate.precision}", candidate, "cpu", 0)
        for candidate in graphs
        if candidate.precision != "bf16"
    ]


def _compare_file(name: str, candidate: Candidate, own: Mapping[str, NDArray[Any]]) -> Weights:
    model = onnx.load_from_string(candidate.bundle.read(name))
    limit = STEPS[candidate.precision]
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if (tensor.name in own or "." in tensor.name)
        and not tensor.name.startswith(UINT8_CONSTANTS)
    }
    changed = [
        key
        for key, value in stored.items()
        # An older version may have named it otherwise; then its shape identifies it.
        if not any(
            _is_same(other, value, limit)
            for other in ([own[key]] if key in own else own.values())
        )
    ]
    values = sum(value.size for value in stored.values())
    return Weights(name, len(stored), values, limit, tuple(changed))


def _is_same(own: NDArray[Any], stored: NDArray[Any], limit: float) -> bool:
    if own.shape != stored.shape:
        return False
    wide = own.astype(np.float64)
    floor = TINY * float(np.abs(wide).max(initial=0))
    return bool(
        np.all(np.abs(wide - stored.astype(np.float64)) <= limit * np.abs(wide) + floor)
    )
