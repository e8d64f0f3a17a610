"""Compare two reports row by row: better, worse, equal or inconclusive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_export.bench.entries import SCHEMA
from flowsr_runtime.errors import RegressionError, UsageError

__all__ = ["Comparison", "Verdict", "check", "compare", "differences", "read_report"]

Word = Literal["better", "worse", "equal", "inconclusive"]

CONFIDENCE = 0.95  # that no row of a comparison of equals is called better or worse
LEAST_BLOCKS = 5
RESAMPLES = 5_000
IDENTITY = (
    "backend",
    "provider",
    "precision",
    "measures",
    "scale",
    "lr",
    "size",
    "batch",
)


@dataclass(frozen=True)
class Verdict:
    """One row of both reports.

    Attributes:
        row: What identifies it.
        word: The verdict on the second report.
        ratio: Time of the second over the first: the medians of the blocks' medians.
        low: Lower end of its interval, None where there are too few blocks.
        high: Upper end.
        note: Why there is no verdict.
    """

    row: dict[str, Any]
    word: Word
    ratio: float
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two reports.

    Attributes:
        verdicts: Of the rows that both have.
        only_first: Rows that only the first has, named.
        only_second: Rows that only the second has, named.
        notes: What makes the reports hard to compare.
    """

    verdicts: list[Verdict]
    only_first: list[str]
    only_second: list[str]
    notes: list[str]


def read_report(path: Path) -> dict[str, Any]:
    """Read a report's JSON file.

    Raises:
        UsageError: If it is missing or no report of this schema.
    """
    import json

    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(report, dict) or "rows" not in report or "machine" not in report:
        raise UsageError(f"{path} is not a report of flowsr-export bench")
    if report.get("schema") != SCHEMA:
        raise UsageError(f"{path} must have schema {SCHEMA}, got {report.get('schema')!r}")
    return report


def compare(
    first: dict[str, Any], second: dict[str, Any], threshold: float = 0.05, seed: int = 0
) -> Comparison:
    """Compare two reports.

    A row's interval is a bootstrap over its blocks, at a confidence that holds for all rows
    together. Equal is an interval within the threshold on both sides; better and worse are
    intervals that do not hold 1.

    Args:
        first: Report, as `bench` returns it.
        second: The report to judge.
        threshold: Relative change of time that matters.
        seed: Of the bootstrap.

    Raises:
        UsageError: If the reports have no row in common.
    """
    before = {_identity(row): row for row in first["rows"]}
    after = {_identity(row): row for row in second["rows"]}
    shared = [key for key in before if key in after]
    if not shared:
        raise UsageError("the two reports have no row in common")
    level = 1 - (1 - CONFIDENCE) / len(shared)
    random = np.random.default_rng(seed)
    verdicts = [_verdict(before[key], after[key], threshold, level, random) for key in shared]
    return Comparison(
        verdicts,
        [_name(row) for key, row in before.items() if key not in after],
        [_name(row) for key, row in after.items() if key not in before],
        differences(first, second),
    )


def check(comparison: Comparison, threshold: float) -> None:
    """Refuse what became slower.

    Raises:
        RegressionError: If a row is worse, and by more than the threshold.
    """
    slower = [v for v in comparison.verdicts if v.word == "worse" and v.ratio > 1 + threshold]
    if slower:
        worst = max(slower, key=lambda v: v.ratio)
        raise RegressionError(
            f"{len(slower)} of {len(comparison.verdicts)} rows became slower by more than "
            f"{threshold:.0%}; {_name(worst.row)} takes {worst.ratio:.2f} times as long"
        )


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Say in what the two runs differ beside what is compared."""
    pairs = {
        "processor": [r["machine"]["cpu"] for r in (first, second)],
        "cores": [r["machine"]["cores"] for r in (first, second)],
        "GPUs": [r["machine"]["gpus"] for r in (first, second)],
        "threads": [r["settings"]["threads"] for r in (first, second)],
        "libraries": [r["machine"]["libraries"] for r in (first, second)],
        "graph": [r["bundle"]["sha256"] for r in (first, second)],
    }
    return [name for name, (a, b) in pairs.items() if a != b]


def _verdict(
    first: dict[str, Any],
    second: dict[str, Any],
    threshold: float,
    level: float,
    random: np.random.Generator,
) -> Verdict:
    row = {key: first[key] for key in IDENTITY}
    a, b = _medians(first), _medians(second)
    if min(len(a), len(b)) < LEAST_BLOCKS:
        note = f"fewer than {LEAST_BLOCKS} blocks without a competing load"
        ratio = second["seconds"]["p50"] / first["seconds"]["p50"]
        return Verdict(row, "inconclusive", ratio, None, None, note)
    ratio = float(np.median(b) / np.median(a))
    low, high = _interval(a, b, level, random)
    word: Word = "inconclusive"
    if 1 / (1 + threshold) <= low and high <= 1 + threshold:
        word = "equal"
    elif low > 1 or high < 1:
        word = "worse" if low > 1 else "better"
    return Verdict(row, word, ratio, low, high)


def _medians(row: dict[str, Any]) -> NDArray[np.float64]:
    """Median of each block that had no competing load."""
    return np.array([np.median(b["seconds"]) for b in row["blocks"] if not b["loaded"]])


def _interval(
    a: NDArray[np.float64], b: NDArray[np.float64], level: float, random: np.random.Generator
) -> tuple[float, float]:
    """Interval of the ratio of medians, from blocks drawn anew.

    The spread is widened by n / (n - 1) on each side's share: a resample of n blocks varies
    less than n blocks do.
    """
    logs = []
    for values in (a, b):
        drawn = np.log(values)[random.integers(len(values), size=(RESAMPLES, len(values)))]
        centre = float(np.median(np.log(values)))
        wider = math.sqrt(len(values) / (len(values) - 1))
        logs.append(centre + (np.median(drawn, axis=1) - centre) * wider)
    tail = 50 * (1 - level)
    low, high = np.percentile(logs[1] - logs[0], [tail, 100 - tail])
    return float(np.exp(low)), float(np.exp(high))


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    values: Sequence[Any] = [row[key] for key in IDENTITY]
    return tuple(tuple(v) if isinstance(v, list) else v for v in values)


def _name(row: dict[str, Any]) -> str:
    (h, w), (height, width) = row["lr"], row["size"]
    what = f"{row['backend']} {row['provider']} {row['precision']} {row['measures']}"
    return f"{what} {w}x{h} to {width}x{height}"
