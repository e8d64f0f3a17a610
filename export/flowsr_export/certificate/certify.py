"""Certify a bundle: every comparison with PyTorch, the verdict, and the worst cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.certificate.candidates import (
    Candidate,
    certificate_candidates,
    tiled_output,
    whole_output,
)
from flowsr_export.certificate.cases import (
    ADVERSARIAL,
    CertificateCase,
    Mode,
    case_list,
    picture_of,
)
from flowsr_export.certificate.cross_checks import Weights, compare_backends, compare_weights
from flowsr_export.certificate.record import (
    Check,
    Outcome,
    Record,
    describe_bundle,
    judge,
    summarize_candidate,
)
from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import TEMPERATURE
from flowsr_export.parity.compare import error_stats, reference_output
from flowsr_export.parity.reference import reference_of, restated_scale
from flowsr_export.parity.session_comparison import Comparison, require_polygraphy
from flowsr_runtime import (
    Bundle,
    BundleError,
    MemoryBudgetError,
    NonFiniteError,
    ParityError,
    ProviderError,
    SessionSettings,
    embedded_bundle,
)
from flowsr_runtime.pictures.pixels import full_range
from flowsr_runtime.tiling.exploding_inverse import find_out_of_range

__all__ = ["Certificate", "WorstCase", "certify"]

NOT_RUN = (BundleError, MemoryBudgetError, ProviderError)
MISSED = (NonFiniteError, ParityError)
BACKENDS = "ONNX backends with each other"
STATISTICS = ("max_abs", "max_steps", "p999_steps", "psnr")
DEFAULTS = SessionSettings()


@dataclass(frozen=True)
class WorstCase:
    """The outputs of one comparison.

    Attributes:
        check: The comparison.
        reference: Reference output, (3, H, W), unclamped.
        output: Output of the candidate, (3, H, W).
    """

    check: Check
    reference: NDArray[np.float32]
    output: NDArray[np.float32]


@dataclass(frozen=True)
class Certificate:
    """The certificate of a bundle.

    Attributes:
        record: Content of certificate.json.
        worst: Worst comparison of each candidate that has an output, the worst of all first.
    """

    record: Record
    worst: list[WorstCase]

    @property
    def passed(self) -> bool:
        """Whether every comparison was made and is within its tolerance."""
        return self.record.verdict.passed


def certify(
    bundle: Bundle | None = None,
    model: Path | None = None,
    prior: Path | None = None,
    settings: SessionSettings = DEFAULTS,
    *,
    precision: str | None = None,
    quick: bool = False,
    start: Callable[[int], None] = lambda total: None,
    advance: Callable[[str], None] = lambda note: None,
) -> Certificate:
    """Compare a bundle with PyTorch over backends, precisions, scales, sizes and images.

    A violated tolerance does not end the run; the certificate records it.

    Args:
        bundle: The bundle; None for the built-in one.
        model: Checkpoint of the flow; None for the built-in one.
        prior: Checkpoint of the latent module.
        settings: Backend, provider, device and threads; without a provider every one of ONNX
            Runtime's that starts is compared. Its precision is ignored.
        precision: The only precision to certify; None for all precisions of the bundle and
            for an emulation of float16.
        quick: Take a few cases of each group.
        start: Called once with the number of cases.
        advance: Called with the name of each case after it.

    Raises:
        UsageError: If the checkpoint is not the bundle's.
        ProviderError: If the chosen provider, or the CPU, does not start.
        BundleError: If the bundle is damaged, or lacks the precision.
        ImportError: If Polygraphy is not installed.
    """
    require_polygraphy()
    began, made = time.perf_counter(), datetime.now(timezone.utc)
    bundle = bundle or Bundle.open(embedded_bundle())
    bundle.check_files()
    checkpoint = reference_of(bundle, model, prior)
    deployment = deployment_of(checkpoint.network)
    cases = case_list(bundle.manifest, quick=quick)
    with ExitStack() as stack:
        candidates, not_compared = certificate_candidates(
            bundle, deployment, settings, _precisions(bundle, precision), stack
        )
        run = _Run(deployment, restated_scale(bundle, deployment), candidates, not_compared)
        start(len(cases))
        for case in cases:
            run.compare(case)
            advance(str(case))
        run.cross_check(bundle, cases)
    results = run.results(cases)
    record = Record(
        made=made.isoformat(timespec="seconds"),
        plan="quick" if quick else "full",
        seconds=round(time.perf_counter() - began, 1),
        about=describe_bundle(bundle, checkpoint),
        **results,
    )
    worst = sorted(run.worst.values(), key=lambda one: one.check.rank, reverse=True)
    return Certificate(record, worst)


@dataclass
class _Run:
    """The comparisons so far, and the worst of each candidate.

    `exploded` holds the adversarial images on which PyTorch itself gives values far out of
    range: rounding decides such values, so no tolerance fits them.
    """

    deployment: Deployment
    scale: Fraction | None
    candidates: Sequence[Candidate]
    not_compared: dict[str, str]
    checks: list[Check] = field(default_factory=list)
    worst: dict[str, WorstCase] = field(default_factory=dict)
    exploded: dict[str, str] = field(default_factory=dict)
    backends: Sequence[Comparison] | None = None
    weights: Sequence[Weights] = ()

    def compare(self, case: CertificateCase) -> None:
        """Upscale the images of a case with PyTorch and every candidate."""
        rgb = picture_of(case)
        feeds = self.deployment.feeds(case.sizes, self.scale, rgb, case.seed)
        reference = reference_output(self.deployment, case.sizes, feeds)
        out_of_range = find_out_of_range(reference) if case.picture in ADVERSARIAL else None
        if out_of_range is not None:
            self.exploded[str(case)] = str(out_of_range)
            return
        temperature = TEMPERATURE if self.deployment.latents else None
        for candidate in self.candidates:
            whole = partial(whole_output, self.deployment, candidate, case, feeds)
            tiled = cache(partial(tiled_output, candidate, case, rgb, temperature))
            for mode in candidate.modes(case):
                expected, tiles = reference, None
                try:
                    if mode == "whole":
                        output = whole()
                    else:
                        output, tiles = tiled("default" if mode == "tiles" else "exact")
                    if mode == "exact seam":
                        expected = full_range(whole())
                except (*NOT_RUN, *MISSED) as error:
                    outcome: Outcome = "not run" if isinstance(error, NOT_RUN) else "missed"
                    self._add(candidate, case, mode, outcome=outcome, why=(str(error),))
                else:
                    self._judge(candidate, case, mode, tiles, expected, output)

    def cross_check(self, bundle: Bundle, cases: Sequence[CertificateCase]) -> None:
        """Compare backends with each other, and weights with the network's."""
        self.backends = compare_backends(bundle, self.deployment, self.candidates, cases)
        self.weights, reasons = compare_weights(self.deployment, self.scale, self.candidates)
        self.not_compared |= reasons
        if not self.backends:
            self.not_compared[BACKENDS] = "there is at most one session of ONNX Runtime"

    def results(self, cases: Sequence[CertificateCase]) -> dict[str, Any]:
        """Return the fields of a record that hold comparisons and their verdict."""
        planned = [
            (candidate, case, mode)
            for candidate in self.candidates
            for case in cases
            if str(case) not in self.exploded
            for mode in candidate.modes(case)
        ]
        keys = [(candidate.name, mode, str(case)) for candidate, case, mode in planned]
        trip, graphs = self.deployment.round_trip(), any(one.file for one in self.candidates)
        return {
            "verdict": judge(
                keys, self.checks, trip, self.backends, self.weights, graphs=graphs
            ),
            "round_trip": trip,
            "not_compared": self.not_compared,
            "exploded": self.exploded,
            "tolerances": {
                candidate.tolerance_name(case, mode): candidate.tolerance(
                    self.deployment, case, mode
                )
                for candidate, case, mode in planned
            },
            "candidates": tuple(summarize_candidate(c, self.checks) for c in self.candidates),
            "backends": tuple(self.backends or ()),
            "weights": tuple(self.weights),
            "checks": tuple(self.checks),
        }

    def _judge(
        self,
        candidate: Candidate,
        case: CertificateCase,
        mode: Mode,
        tiles: int | None,
        expected: NDArray[np.float32],
        output: NDArray[Any],
    ) -> None:
        """Compare an output, and keep it if it is the candidate's worst."""
        tolerance = candidate.tolerance(self.deployment, case, mode)
        stats = error_stats(case.sizes, expected, output)
        values = full_range(output)
        check = self._add(
            candidate,
            case,
            mode,
            outcome="missed" if stats.violations(tolerance) else "passed",
            why=tuple(stats.violations(tolerance)),
            tiles=tiles,
            used=stats.fraction_used(tolerance),
            at=_largest_difference(expected, values),
            **{name: getattr(stats, name) for name in STATISTICS},
        )
        before = self.worst.get(candidate.name)
        if check.at and (before is None or check.rank > before.check.rank):
            image = check.at[0]
            self.worst[candidate.name] = WorstCase(check, expected[image], values[image])

    def _add(
        self, candidate: Candidate, case: CertificateCase, mode: Mode, **values: Any
    ) -> Check:
        sizes = case.sizes.lr, case.sizes.size, case.sizes.batch
        about = str(case), case.picture, case.seed, case.scale, *sizes
        tolerance = candidate.tolerance_name(case, mode)
        check = Check(candidate.name, mode, *about, tolerance, **values)
        self.checks.append(check)
        return check


def _precisions(bundle: Bundle, precision: str | None) -> list[str]:
    if precision is not None:
        bundle.model_name(precision)
        return [precision]
    return list(dict.fromkeys([*bundle.precisions, "fp16"]))


def _largest_difference(
    reference: NDArray[np.float32], output: NDArray[np.float32]
) -> tuple[int, int, int, int]:
    """Return image, channel, row and column of the largest difference, or of the first NaN."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.astype(np.float64) - output)
    difference[~np.isfinite(difference)] = np.inf
    image, channel, row, column = np.unravel_index(int(difference.argmax()), difference.shape)
    return int(image), int(channel), int(row), int(column)
