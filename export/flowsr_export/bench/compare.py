"""Compare two reports row by row: better, worse, equal or inconclusive."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_export.bench.entries import SCHEMA, Row, RowKey
from flowsr_runtime.errors import InputError, RegressionError, UsageError

__all__ = [
    "Comparison",
    "SavedReport",
    "Verdict",
    "check",
    "compare",
    "read_report",
]

Word = Literal["better", "worse", "equal", "inconclusive"]

CONFIDENCE = 0.95  # that no row is called better or worse when two equal runs are compared
MIN_BLOCKS = 5
RESAMPLES = 5_000
# Properties of a run that make two reports hard to compare, and their places in a report.
ENVIRONMENT = {
    "processor": ("machine", "cpu"),
    "cores": ("machine", "cores"),
    "GPUs": ("machine", "gpus"),
    "threads": ("settings", "threads"),
    "libraries": ("machine", "libraries"),
    "graph": ("bundle", "sha256"),
}


@dataclass(frozen=True)
class SavedReport:
    """The part of a report's JSON file that is compared.

    Attributes:
        rows: Measurements by their identity.
        environment: Values of `ENVIRONMENT`.
    """

    rows: dict[RowKey, Row]
    environment: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """The comparison of one row.

    Attributes:
        row: Identity of the row.
        word: Verdict on the second report.
        ratio: Time of the second over the first, from the medians of the blocks' medians.
        low: Lower end of its interval, None where there are too few blocks.
        high: Upper end of its interval.
        note: Reason why there is no verdict.
    """

    row: RowKey
    word: Word
    ratio: float
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """The comparison of two reports.

    Attributes:
        verdicts: Verdicts on the rows of both.
        only_first: Names of rows in the first report only.
        only_second: Names of rows in the second report only.
        notes: Differences that make the reports hard to compare.
    """

    verdicts: list[Verdict]
    only_first: list[str]
    only_second: list[str]
    notes: list[str]


def read_report(path: Path) -> SavedReport:
    """Read a report's JSON file.

    Raises:
        InputError: If it is missing or is not a report of this schema.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not a report: {' '.join(str(error).split())}") from error
    if isinstance(report, dict) and report.get("schema", SCHEMA) != SCHEMA:
        raise InputError(f"{path} must have schema {SCHEMA}, got {report['schema']!r}")
    try:
        rows = [Row.from_json(entry) for entry in report["rows"]]
        environment = {name: report[a][b] for name, (a, b) in ENVIRONMENT.items()}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not a report of flowsr-export bench") from error
    return SavedReport({row.key: row for row in rows}, environment)


def compare(
    first: SavedReport, second: SavedReport, threshold: float = 0.05, seed: int = 0
) -> Comparison:
    """Compare two reports.

    The interval of a row is a bootstrap over its blocks, at a confidence that holds for all
    rows together. A row is equal if the interval lies within the threshold on both sides, and
    better or worse if the interval does not contain 1.

    Args:
        first: Baseline.
        second: Report to judge.
        threshold: Relative change of time that matters.
        seed: Random seed of the bootstrap.

    Raises:
        UsageError: If the reports have no row in common.
    """
    shared = [key for key in first.rows if key in second.rows]
    if not shared:
        raise UsageError("the two reports have no row in common")
    level = 1 - (1 - CONFIDENCE) / len(shared)
    random = np.random.default_rng(seed)
    a, b = first.environment, second.environment
    verdicts = [
        _verdict(first.rows[key], second.rows[key], threshold, level, random) for key in shared
    ]
    return Comparison(
        verdicts,
        [str(key) for key in first.rows if key not in second.rows],
        [str(key) for key in second.rows if key not in first.rows],
        [name for name in a if a[name] != b[name]],
    )


def check(comparison: Comparison, threshold: float) -> None:
    """Check that nothing became slower.

    Raises:
        RegressionError: If a row is worse, and by more than the threshold.
    """
    slower = [v for v in comparison.verdicts if v.word == "worse" and v.ratio > 1 + threshold]
    if slower:
        worst = max(slower, key=lambda v: v.ratio)
        raise RegressionError(
            f"{len(slower)} of {len(comparison.verdicts)} rows became slower by more than "
            f"{threshold:.0%}; {worst.row} takes {worst.ratio:.2f} times as long"
        )


def _verdict(
    first: Row, second: Row, threshold: float, level: float, random: np.random.Generator
) -> Verdict:
    a, b = _medians(first), _medians(second)
    if min(len(a), len(b)) < MIN_BLOCKS:
        note = f"fewer than {MIN_BLOCKS} undisturbed blocks"
        ratio = second.median / first.median
        return Verdict(first.key, "inconclusive", ratio, None, None, note)
    ratio = float(np.median(b) / np.median(a))
    low, high = _interval(a, b, level, random)
    word: Word = "inconclusive"
    if 1 / (1 + threshold) <= low and high <= 1 + threshold:
        word = "equal"
    elif low > 1 or high < 1:
        word = "worse" if low > 1 else "better"
    return Verdict(first.key, word, ratio, low, high)


def _medians(row: Row) -> NDArray[np.float64]:
    """Return the median of each block that nothing disturbed."""
    return np.array([np.median(block.seconds) for block in row.blocks if not block.disturbed])


def _interval(
    a: NDArray[np.float64], b: NDArray[np.float64], level: float, random: np.random.Generator
) -> tuple[float, float]:
    """Return the interval of the ratio of medians, from resampled blocks.

    The spread is widened by sqrt(n / (n - 1)), because a resample of n blocks varies less
    than n blocks do.
    """
    logs = []
    for values in (a, b):
        drawn = np.log(values)[random.integers(len(values), size=(RESAMPLES, len(values)))]
        center = float(np.median(np.log(values)))
        wider = math.sqrt(len(values) / (len(values) - 1))
        logs.append(center + (np.median(drawn, axis=1) - center) * wider)
    tail = 50 * (1 - level)
    low, high = np.percentile(logs[1] - logs[0], [tail, 100 - tail])
    return float(np.exp(low)), float(np.exp(high))
