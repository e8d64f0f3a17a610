"""The content of a certificate: comparisons, verdict, JSON; docs/measuring/certificate.md."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from flowsr_export.certificate.candidates import Candidate
from flowsr_export.certificate.cases import Mode
from flowsr_export.certificate.cross_checks import Weights
from flowsr_export.machine.libraries import describe_machine
from flowsr_export.parity.compare import Tolerance
from flowsr_export.parity.session_comparison import Comparison
from flowsr_export.parity.verify import ROUND_TRIP_TOLERANCE
from flowsr_export.reports.table import finite
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, embedded_bundle
from flowsr_runtime.bundle.directory import MANIFEST_NAME

__all__ = [
    "SCHEMA",
    "CandidateSummary",
    "Check",
    "Outcome",
    "Record",
    "Totals",
    "Verdict",
    "describe_bundle",
    "judge",
    "summarize_candidate",
]

SCHEMA = 1
DIGITS = 6  # significant digits in JSON; more would be noise of the machine

Outcome = Literal["passed", "missed", "not run"]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        candidate: Name of the candidate.
        mode: Kind of comparison.
        case: Name of the case.
        picture: Name of the image.
        seed: Random seed of the case.
        scale: Scale of the case.
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        batch: Images at once.
        tolerance: Name of the tolerance.
        outcome: Whether the comparison is within its tolerance.
        why: Violations, or the reason why it did not run.
        tiles: Number of tiles, None for a whole image.
        max_abs: Largest difference, 1 is full range; None like the others without an output.
        max_steps: Largest difference of eight-bit images.
        p999_steps: 99.9th percentile of the difference in eight-bit steps.
        psnr: PSNR between the outputs, dB.
        used: Fraction of the tolerance that is used.
        at: Image, channel, row and column of the largest difference.
    """

    candidate: str
    mode: Mode
    case: str
    picture: str
    seed: int
    scale: str
    lr: tuple[int, int]
    size: tuple[int, int]
    batch: int
    tolerance: str
    outcome: Outcome
    why: tuple[str, ...] = ()
    tiles: int | None = None
    max_abs: float | None = None
    max_steps: int | None = None
    p999_steps: float | None = None
    psnr: float | None = None
    used: float = math.inf
    at: tuple[int, int, int, int] | None = None

    @property
    def key(self) -> Key:
        """Identity of the comparison in the plan."""
        return self.candidate, self.mode, self.case

    @property
    def rank(self) -> tuple[bool, float]:
        """Order of comparisons from the best to the worst."""
        used = self.used if math.isfinite(self.used) else math.inf
        return self.outcome != "passed", used


@dataclass(frozen=True)
class CandidateSummary:
    """A candidate and the summary of its comparisons.

    Attributes:
        name: Name of the candidate.
        backend: Backend.
        provider: Provider.
        precision: Precision of its graph.
        file: ONNX file, None for an emulation.
        comparisons: Number of comparisons.
        passed: Comparisons within their tolerances.
        max_steps: Largest difference in eight-bit steps.
        used: Largest fraction of a tolerance that is used, None without a comparison.
        worst: Mode and case of that comparison.
        tf32: Whether its float32 products are computed in TF32.
    """

    name: str
    backend: str
    provider: str
    precision: str
    file: str | None
    comparisons: int
    passed: int
    max_steps: int | None
    used: float | None
    worst: str | None
    tf32: bool = False


@dataclass(frozen=True)
class Totals:
    """Numbers of comparisons.

    Attributes:
        planned: Comparisons with PyTorch that are due.
        passed: Comparisons within their tolerances.
        missed: Comparisons beyond their tolerances.
        not_run: Comparisons that could not be made.
        backends: Comparisons of ONNX backends with each other.
        backends_passed: Those that passed.
    """

    planned: int
    passed: int
    missed: int
    not_run: int
    backends: int
    backends_passed: int


@dataclass(frozen=True)
class Verdict:
    """The verdict on a bundle.

    Attributes:
        passed: Whether every comparison was made and passed.
        complete: Whether every planned comparison was made.
        totals: Numbers of comparisons.
    """

    passed: bool
    complete: bool
    totals: Totals


@dataclass(frozen=True)
class Record:
    """Everything that certificate.json holds.

    Attributes:
        made: Date and time, ISO 8601.
        plan: "quick" or "full".
        seconds: Duration.
        verdict: Verdict and totals.
        round_trip: Largest relative error of the flow's inverse(forward(x)).
        about: Bundle, checkpoint, reference and machine.
        not_compared: Reasons by name.
        exploded: Cases on which PyTorch itself gives values far out of range.
        tolerances: Tolerances by name.
        candidates: Candidates and their summaries.
        backends: Comparisons of ONNX backends with each other.
        weights: Comparisons of weights.
        checks: Every comparison with PyTorch.
    """

    made: str
    plan: str
    seconds: float
    verdict: Verdict
    round_trip: float
    about: dict[str, Any]
    not_compared: dict[str, str]
    exploded: dict[str, str]
    tolerances: dict[str, Tolerance]
    candidates: tuple[CandidateSummary, ...]
    backends: tuple[Comparison, ...]
    weights: tuple[Weights, ...]
    checks: tuple[Check, ...]

    def trouble(self) -> str:
        """Return in one line everything that keeps the certificate from passing."""
        totals = self.verdict.totals
        parts = [
            f"{totals.missed} of {totals.planned} comparisons exceeded their tolerance, "
            f"{totals.not_run} could not be made"
        ]
        failed = [check for check in self.checks if check.outcome != "passed"]
        if failed:
            worst = max(failed, key=lambda check: check.rank)
            why = "; ".join(worst.why)
            parts.append(f"{worst.candidate}, {worst.mode}, {worst.case}: {why}")
        if not self.round_trip <= ROUND_TRIP_TOLERANCE:
            parts.append(
                f"flow's inverse(forward(x)) must be x within {ROUND_TRIP_TOLERANCE:g}"
            )
        parts += [
            f"{entry.second} must be {entry.first} within {entry.tolerance.limit:g}"
            for entry in self.backends
            if not entry.passed
        ]
        parts += [
            f"{len(entry.changed)} of {entry.tensors} weights of {entry.file} are not the "
            f"network's, the first is {next(iter(entry.changed), None)}"
            for entry in self.weights
            if not entry.passed
        ]
        if not any(candidate.file for candidate in self.candidates):
            parts.append("no graph of the bundle was run")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON: rounded, and null for values that are not finite."""
        fields = asdict(self)
        verdict, trip, about = (fields.pop(key) for key in ("verdict", "round_trip", "about"))
        fields["weights"] = [{**asdict(w), "passed": w.passed} for w in self.weights]
        passed = self.round_trip <= ROUND_TRIP_TOLERANCE
        round_trip = {
            "relative_error": trip,
            "tolerance": ROUND_TRIP_TOLERANCE,
            "passed": passed,
        }
        plain = {"schema": SCHEMA, **verdict, "round_trip": round_trip, **about, **fields}
        return dict(finite(plain, DIGITS))

    def as_json(self, command: str) -> str:
        """Return certificate.json, each element of a list on one line."""
        lines = []
        for name, value in {"command": command, **self.as_dict()}.items():
            if isinstance(value, list) and value:
                items = ",\n".join(f"  {json.dumps(item, allow_nan=False)}" for item in value)
                text = f"[\n{items}\n ]"
            else:
                text = json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n ")
            lines.append(f" {json.dumps(name)}: {text}")
        return "{\n" + ",\n".join(lines) + "\n}\n"


def judge(
    expected: Sequence[Key],
    checks: Sequence[Check],
    round_trip: float,
    backends: Sequence[Comparison] | None,
    weights: Sequence[Weights] = (),
    *,
    graphs: bool = True,
) -> Verdict:
    """Judge a certificate; missing comparisons and values count against it.

    Args:
        expected: Keys of the planned comparisons.
        checks: The comparisons.
        round_trip: Largest relative error of the flow's inverse(forward(x)).
        backends: Polygraphy's comparisons; None if there was nothing to compare.
        weights: Comparisons of weights.
        graphs: Whether a graph of the bundle ran at all.
    """
    done = Counter(check.key for check in checks if check.outcome != "not run")
    outcomes = Counter(check.outcome for check in checks)
    missing = sum((Counter(expected) - done).values())
    complete = graphs and bool(expected) and missing == 0 and len(checks) == len(expected)
    passed = (
        complete
        and outcomes["passed"] == len(expected)
        and round_trip <= ROUND_TRIP_TOLERANCE
        and (backends is None or bool(backends))
        and all(comparison.passed for comparison in backends or ())
        and all(entry.passed for entry in weights)
    )
    totals = Totals(
        planned=len(expected),
        passed=outcomes["passed"],
        missed=outcomes["missed"],
        not_run=len(expected) - outcomes["passed"] - outcomes["missed"],
        backends=len(backends or ()),
        backends_passed=sum(comparison.passed for comparison in backends or ()),
    )
    return Verdict(passed, complete, totals)


def summarize_candidate(candidate: Candidate, checks: Sequence[Check]) -> CandidateSummary:
    """Summarize the comparisons of a candidate."""
    own = [check for check in checks if check.candidate == candidate.name]
    worst = max(own, key=lambda check: check.rank, default=None)
    steps = [check.max_steps for check in own if check.max_steps is not None]
    return CandidateSummary(
        candidate.name,
        candidate.session.backend,
        candidate.session.provider,
        candidate.precision,
        candidate.file,
        comparisons=len(own),
        passed=sum(check.outcome == "passed" for check in own),
        max_steps=max(steps, default=None),
        used=None if worst is None else worst.used,
        worst=None if worst is None else f"{worst.mode}, {worst.case}",
        tf32=getattr(candidate.session, "tf32", False),
    )


def describe_bundle(bundle: Bundle, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the bundle, its checkpoint, the reference and the machine."""
    manifest = bundle.manifest
    text = (bundle.path / MANIFEST_NAME).read_bytes()
    return {
        "bundle": {
            "path": "built in" if bundle.path == embedded_bundle() else str(bundle.path),
            "family": manifest.family,
            "scale": "any" if manifest.scale is None else str(manifest.scale),
            "io": manifest.io,
            "seam_steps": manifest.tiling.seam_steps,
            "manifest_sha256": hashlib.sha256(text).hexdigest(),
            "files": {name: asdict(entry) for name, entry in manifest.files.items()},
        },
        "checkpoint": {
            name: getattr(checkpoint, name) for name in ("model_sha256", "prior_sha256")
        },
        "reference": f"PyTorch {torch.__version__}, eager, float32, cpu",
        "machine": describe_machine(),
    }
