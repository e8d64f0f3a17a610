"""What a certificate says: its records, its verdict and its JSON text; docs/certificate.md."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch

from flowsr_export.certificate.candidates import Candidate
from flowsr_export.certificate.cases import CertificateCase, Mode
from flowsr_export.certificate.weights import Weights
from flowsr_export.deployment.interface import Deployment
from flowsr_export.machine.libraries import examine
from flowsr_export.parity.compare import ErrorStats
from flowsr_export.parity.session_comparison import Comparison
from flowsr_export.parity.verify import ROUND_TRIP_BAR
from flowsr_lp import Checkpoint
from flowsr_runtime import Bundle, embedded_bundle
from flowsr_runtime.bundle.directory import MANIFEST_NAME

__all__ = [
    "SCHEMA",
    "Outcome",
    "as_json",
    "backend_record",
    "bars_of",
    "check_record",
    "described",
    "expected_keys",
    "key_of",
    "rank",
    "round_trip_record",
    "subject_record",
    "verdict",
    "weights_record",
]

SCHEMA = 1
DIGITS = 6  # of a figure; more would be noise of the machine

Outcome = Literal["passed", "missed", "not run"]
Record = dict[str, Any]
Key = tuple[str, str, str]


def check_record(
    subject: Candidate,
    trial: CertificateCase,
    kind: Mode,
    outcome: Outcome,
    why: Sequence[str] = (),
    *,
    figures: ErrorStats | None = None,
    used: float = math.inf,
    at: Sequence[int] | None = None,
    tiles: int | None = None,
) -> Record:
    """Return one comparison as the certificate holds it.

    Args:
        subject: What was compared.
        trial: The picture.
        kind: Of the comparison.
        outcome: Whether it is within its bar.
        why: What it missed, or why it did not run.
        figures: How far the outputs are apart; None if there is no output.
        used: Share of the bar that is used up.
        at: Picture, channel, row and column of the largest difference.
        tiles: Number of tiles.
    """
    found = {} if figures is None else figures.as_dict()
    return {
        "subject": subject.name,
        "kind": kind,
        "trial": str(trial),
        "picture": trial.picture,
        "seed": trial.seed,
        "scale": trial.scale,
        "lr": list(trial.case.lr),
        "size": list(trial.case.size),
        "batch": trial.case.batch,
        "tiles": tiles,
        "bar": subject.bar_name(trial, kind),
        **{name: _number(found.get(name)) for name in ("max_abs", "p999_steps", "psnr")},
        "max_steps": found.get("max_steps"),
        "equal": figures is not None and figures.max_abs == 0,
        "used": _number(used),
        "at": None if at is None else [int(place) for place in at],
        "outcome": outcome,
        "why": list(why),
    }


def key_of(record: Mapping[str, Any]) -> Key:
    """Return what makes a comparison the one that was planned."""
    return record["subject"], record["kind"], record["trial"]


def expected_keys(
    subjects: Iterable[Candidate], trials: Sequence[CertificateCase]
) -> list[Key]:
    """Return the key of every comparison that is due."""
    return [
        (subject.name, kind, str(trial))
        for subject in subjects
        for trial in trials
        for kind in subject.kinds(trial)
    ]


def verdict(
    expected: Sequence[Key],
    checks: Sequence[Mapping[str, Any]],
    round_trip: float,
    backends: Sequence[Comparison] | None,
    weights: Sequence[Weights] = (),
    *,
    graphs: bool = True,
) -> Record:
    """Judge a certificate; what is missing or has no figure counts against it.

    Args:
        expected: The comparisons that are due.
        checks: Those that were made.
        round_trip: Largest relative error of the flow's inverse(forward(x)).
        backends: What Polygraphy compared; None if there was nothing for it.
        weights: What was found of the files' weights.
        graphs: Whether a graph of the bundle ran at all.

    Returns:
        `passed`, `complete` and `totals`.
    """
    made = Counter(key_of(check) for check in checks if _was_made(check))
    outcomes = Counter(str(check["outcome"]) for check in checks)
    missing = sum((Counter(expected) - made).values())
    complete = graphs and bool(expected) and missing == 0 and len(checks) == len(expected)
    passed = (
        complete
        and outcomes["passed"] == len(expected)
        and round_trip <= ROUND_TRIP_BAR
        and (backends is None or bool(backends))
        and all(comparison.passed for comparison in backends or ())
        and all(entry.passed for entry in weights)
    )
    return {
        "passed": passed,
        "complete": complete,
        "totals": {
            "planned": len(expected),
            "passed": outcomes["passed"],
            "missed": outcomes["missed"],
            "not_run": len(expected) - outcomes["passed"] - outcomes["missed"],
            "backends": len(backends or ()),
            "backends_passed": sum(comparison.passed for comparison in backends or ()),
        },
    }


def rank(check: Mapping[str, Any]) -> tuple[bool, float]:
    """Order comparisons by how bad they are; without a share it is the worst."""
    used = check["used"]
    return check["outcome"] != "passed", float("inf") if used is None else used


def subject_record(subject: Candidate, checks: Sequence[Mapping[str, Any]]) -> Record:
    """Return what a subject is, and the figures of all its comparisons."""
    own = [check for check in checks if check["subject"] == subject.name]
    worst = max(own, key=rank, default=None)
    steps = [check["max_steps"] for check in own if check["max_steps"] is not None]
    return {
        "name": subject.name,
        "backend": subject.session.backend,
        "provider": subject.session.provider,
        "precision": subject.precision,
        "file": subject.file,
        "comparisons": len(own),
        "passed": sum(check["outcome"] == "passed" for check in own),
        "max_steps": max(steps, default=None),
        "worst": worst and {key: worst[key] for key in ("kind", "trial", "max_abs", "used")},
    }


def backend_record(entry: Comparison) -> Record:
    """Return what Polygraphy found of two sessions."""
    return {
        "first": entry.first,
        "second": entry.second,
        "runs": entry.runs,
        **asdict(entry.tolerance),
        "max_abs": _number(entry.max_abs),
        "mean_abs": _number(entry.mean_abs),
        "passed": entry.passed,
    }


def weights_record(entry: Weights) -> Record:
    """Return what was found of the weights of a file."""
    return {**asdict(entry), "changed": list(entry.changed), "passed": entry.passed}


def bars_of(
    deployment: Deployment, subjects: Iterable[Candidate], trials: Sequence[CertificateCase]
) -> dict[str, Record]:
    """Return the bars by the names that the comparisons give them."""
    return {
        subject.bar_name(trial, kind): asdict(subject.bar(deployment, trial, kind))
        for subject in subjects
        for trial in trials
        for kind in subject.kinds(trial)
    }


def round_trip_record(round_trip: float) -> Record:
    """Return the largest relative error of the flow's inverse(forward(x)) and its verdict."""
    return {
        "relative_error": _number(round_trip),
        "bar": ROUND_TRIP_BAR,
        "passed": round_trip <= ROUND_TRIP_BAR,
    }


def described(bundle: Bundle, checkpoint: Checkpoint) -> Record:
    """Say what was certified, against what, and on which machine."""
    manifest = bundle.manifest
    found = examine()
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
            "model_sha256": checkpoint.model_sha256,
            "prior_sha256": checkpoint.prior_sha256,
        },
        "reference": f"PyTorch {torch.__version__}, eager, float32, cpu",
        "machine": {
            **asdict(found.device),
            "instruction_sets": list(found.device.instruction_sets),
            "gpus": [asdict(gpu) for gpu in found.device.gpus],
            "python": platform.python_version(),
            "flowsr": found.version,
            "libraries": {part.name: part.version for part in found.parts if part.version},
        },
    }


def as_json(content: Mapping[str, Any]) -> str:
    """Return a certificate as JSON, each record of a list on one line."""
    return f"{{\n{_members(content)}\n}}\n"


def _members(content: Mapping[str, Any]) -> str:
    lines = []
    for name, value in content.items():
        if isinstance(value, list) and value:
            items = ",\n".join(f"  {json.dumps(item, allow_nan=False)}" for item in value)
            text = f"[\n{items}\n ]"
        else:
            text = json.dumps(value, indent=1, allow_nan=False).replace("\n", "\n ")
        lines.append(f" {json.dumps(name)}: {text}")
    return ",\n".join(lines)


def _was_made(check: Mapping[str, Any]) -> bool:
    """Whether a comparison was made."""
    return bool(check["outcome"] != "not run")


def _number(value: float | None) -> float | None:
    """Round a figure; what is not a number is null."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
