"""The certificate of a bundle: every comparison with PyTorch, its verdict, the worst cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.certificate.candidates import (
    Candidate,
    precisions_of,
    subjects_of,
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
from flowsr_export.certificate.cross_checks import compare_backends
from flowsr_export.certificate.record import (
    SCHEMA,
    Outcome,
    backend_record,
    bars_of,
    check_record,
    described,
    expected_keys,
    rank,
    round_trip_record,
    subject_record,
    verdict,
    weights_record,
)
from flowsr_export.certificate.weights import Weights, compare_weights
from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import TEMPERATURE
from flowsr_export.parity.compare import figures_of, reference_output
from flowsr_export.parity.reference import reference_of, restated_scale
from flowsr_export.parity.session_comparison import Comparison, require_polygraphy
from flowsr_export.parity.verify import DEFAULTS
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
from flowsr_runtime.upscaling.upscaler import HaloName

__all__ = ["Certificate", "Pictured", "certify"]

NOT_RUN = (BundleError, MemoryBudgetError, ProviderError)
MISSED = (NonFiniteError, ParityError)
BACKENDS = "ONNX backends among each other"


@dataclass(frozen=True)
class Pictured:
    """The outputs of one comparison.

    Attributes:
        check: Its record.
        reference: What was compared with, (3, H, W), unclamped.
        output: What the subject gave, (3, H, W).
    """

    check: dict[str, Any]
    reference: NDArray[np.float32]
    output: NDArray[np.float32]


@dataclass(frozen=True)
class Certificate:
    """What was found of a bundle.

    Attributes:
        content: As certificate.json holds it; docs/certificate.md has the schema.
        pictured: The worst comparison of each subject that has one, the worst of all first.
    """

    content: dict[str, Any]
    pictured: list[Pictured]

    @property
    def passed(self) -> bool:
        """Whether every comparison was made and is within its bar."""
        return bool(self.content["passed"])

    def trouble(self) -> str:
        """Say in one line what keeps a certificate from passing."""
        totals, trip = self.content["totals"], self.content["round_trip"]
        bad = [check for check in self.content["checks"] if check["outcome"] != "passed"]
        parts = [
            f"{totals['missed']} of {totals['planned']} comparisons missed their bar, "
            f"{totals['not_run']} could not be made"
        ]
        if bad:
            worst = max(bad, key=rank)
            reason = "; ".join(worst["why"])
            parts.append(f"{worst['subject']}, {worst['kind']}, {worst['trial']}: {reason}")
        if not trip["passed"]:
            parts.append(f"flow's inverse(forward(x)) must be x within {trip['bar']:g}")
        parts += [
            f"{entry['second']} must be {entry['first']} within {entry['limit']:g}"
            for entry in self.content["backends"]
            if not entry["passed"]
        ]
        parts += [
            f"{len(entry['changed'])} of {entry['tensors']} weights of {entry['file']} are not "
            f"the network's, the first is {entry['changed'][0] if entry['changed'] else None}"
            for entry in self.content["weights"]
            if not entry["passed"]
        ]
        if not any(subject["file"] for subject in self.content["subjects"]):
            parts.append("no graph of the bundle was run")
        return "; ".join(parts)


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
    """Compare a bundle with PyTorch over backends, precisions, scales, sizes and pictures.

    A missed bar does not end the run: the certificate says it.

    Args:
        bundle: The bundle; None for the built-in one.
        model: Checkpoint of its flow; None for the built-in one.
        prior: Checkpoint of its latent module.
        settings: Backend, provider, device and threads; no provider stands for each of ONNX
            Runtime's that starts. Its precision is not looked at.
        precision: The only one to certify; None for all of the bundle, and for what the
            rounding of float16 does to its network.
        quick: Take a few trials of each group.
        start: Called once with the number of trials.
        advance: Called with the name of each when it is done.

    Returns:
        The certificate.

    Raises:
        UsageError: If the checkpoint is not the bundle's.
        ProviderError: If a provider that was asked for, or the CPU, does not start.
        BundleError: If the bundle is damaged, or lacks the precision.
        ImportError: If Polygraphy is not installed.
    """
    require_polygraphy()
    bundle = bundle or Bundle.open(embedded_bundle())
    bundle.check_files()
    checkpoint = reference_of(bundle, model, prior)
    deployment = deployment_of(checkpoint.network)
    trials = case_list(bundle.manifest, quick=quick)
    run = _Run(deployment, restated_scale(bundle, deployment))
    with ExitStack() as stack:
        names = _precisions(bundle, precision)
        opened = subjects_of(bundle, deployment, settings, names, stack)
        run.subjects, run.left_out = opened
        start(len(trials))
        for trial in trials:
            run.take(trial)
            advance(str(trial))
        run.backends = compare_backends(bundle, deployment, run.subjects, trials)
        run.weights, unlike = compare_weights(deployment, run.scale, run.subjects)
        run.left_out.update(unlike)
    about = described(bundle, checkpoint)
    content = {**_found(run, trials, quick), **about, **_compared(run, trials)}
    pictured = sorted(run.worst.values(), key=lambda p: rank(p.check), reverse=True)
    return Certificate(content, pictured)


@dataclass
class _Run:
    """The comparisons that were made so far, and each subject's worst.

    `exploded` holds the harsh pictures on which PyTorch itself gives values that no picture
    holds, and says how many: rounding decides such values, and no bar fits them.
    """

    deployment: Deployment
    scale: Fraction | None
    subjects: Sequence[Candidate] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    backends: Sequence[Comparison] | None = None
    weights: Sequence[Weights] = ()
    checks: list[dict[str, Any]] = field(default_factory=list)
    worst: dict[str, Pictured] = field(default_factory=dict)
    exploded: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    made: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def due(self, trials: Sequence[CertificateCase]) -> list[CertificateCase]:
        """Return the trials that every subject has to take."""
        return [trial for trial in trials if str(trial) not in self.exploded]

    def take(self, trial: CertificateCase) -> None:
        """Let PyTorch and every subject enlarge the pictures of a trial."""
        rgb = picture_of(trial)
        feeds = self.deployment.feeds(trial.case, self.scale, rgb, trial.seed)
        reference = reference_output(self.deployment, trial.case, feeds)
        explosion = find_out_of_range(reference) if trial.picture in ADVERSARIAL else None
        if explosion is not None:
            self.exploded[str(trial)] = str(explosion)
            return
        for subject in self.subjects:
            tiled: dict[str, tuple[NDArray[Any], int]] = {}
            for kind in subject.kinds(trial):
                try:
                    output, tiles = self._output(subject, trial, kind, rgb, feeds, tiled)
                    against = reference
                    if kind == "exact seam":
                        against = full_range(self._whole(subject, trial, feeds))
                except (*NOT_RUN, *MISSED) as error:
                    outcome: Outcome = "not run" if isinstance(error, NOT_RUN) else "missed"
                    why = [str(error)]
                    self.checks.append(check_record(subject, trial, kind, outcome, why))
                    continue
                self._judge(subject, trial, kind, against, output, tiles)

    def _output(
        self,
        subject: Candidate,
        trial: CertificateCase,
        kind: Mode,
        rgb: NDArray[np.float32],
        feeds: dict[str, NDArray[Any]],
        tiled: dict[str, tuple[NDArray[Any], int]],
    ) -> tuple[NDArray[Any], int | None]:
        """Enlarge as a kind says; the tiles of a halo are computed once, into `tiled`."""
        if kind == "whole":
            return self._whole(subject, trial, feeds), None
        halo: HaloName = "default" if kind == "tiles" else "exact"
        if halo not in tiled:
            temperature = TEMPERATURE if self.deployment.latents else None
            tiled[halo] = tiled_output(subject, trial, rgb, halo, temperature)
        return tiled[halo]

    def _whole(
        self, subject: Candidate, trial: CertificateCase, feeds: dict[str, NDArray[Any]]
    ) -> NDArray[Any]:
        return whole_output(self.deployment, subject, trial, feeds)

    def _judge(
        self,
        subject: Candidate,
        trial: CertificateCase,
        kind: Mode,
        against: NDArray[np.float32],
        output: NDArray[Any],
        tiles: int | None,
    ) -> None:
        """Hold an output against its bar, and keep it if it is the subject's worst."""
        bar = subject.bar(self.deployment, trial, kind)
        figures = figures_of(trial.case, against, output)
        missed = figures.violations(bar)
        shown = full_range(output)
        place = _place(against, shown)
        check = check_record(
            subject,
            trial,
            kind,
            "missed" if missed else "passed",
            missed,
            figures=figures,
            used=figures.used(bar),
            at=place,
            tiles=tiles,
        )
        self.checks.append(check)
        before = self.worst.get(subject.name)
        if before is None or rank(check) > rank(before.check):
            picture = place[0]
            self.worst[subject.name] = Pictured(check, against[picture], shown[picture])


def _found(run: _Run, trials: Sequence[CertificateCase], quick: bool) -> dict[str, Any]:
    """Give the verdict, and the flow's round trip that is a part of it."""
    expected = expected_keys(run.subjects, run.due(trials))
    trip = run.deployment.round_trip()
    graphs = any(subject.file for subject in run.subjects)
    judged = verdict(expected, run.checks, trip, run.backends, run.weights, graphs=graphs)
    judged["totals"]["seconds"] = round(time.perf_counter() - run.began, 1)
    return {
        "schema": SCHEMA,
        "made": run.made.isoformat(timespec="seconds"),
        "plan": "quick" if quick else "full",
        **judged,
        "round_trip": round_trip_record(trip),
    }


def _compared(run: _Run, trials: Sequence[CertificateCase]) -> dict[str, Any]:
    """Return what was compared, what was not, and every comparison."""
    none = {} if run.backends else {BACKENDS: "there is one session of ONNX Runtime, or none"}
    return {
        "not_compared": {**run.left_out, **none},
        "exploded": run.exploded,
        "bars": bars_of(run.deployment, run.subjects, run.due(trials)),
        "subjects": [subject_record(subject, run.checks) for subject in run.subjects],
        "backends": [backend_record(entry) for entry in run.backends or ()],
        "weights": [weights_record(entry) for entry in run.weights],
        "checks": run.checks,
    }


def _precisions(bundle: Bundle, precision: str | None) -> list[str]:
    if precision is not None:
        bundle.model_name(precision)
        return [precision]
    return list(dict.fromkeys([*precisions_of(bundle), "fp16"]))


def _place(reference: NDArray[np.float32], output: NDArray[np.float32]) -> list[int]:
    """Picture, channel, row and column of the largest difference, or of the first NaN."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.astype(np.float64) - output)
    difference[~np.isfinite(difference)] = np.inf
    return [int(i) for i in np.unravel_index(int(difference.argmax()), difference.shape)]
