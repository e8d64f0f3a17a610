"""Changes are detected, and equal runs are not called different."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowsr_export.bench.compare import (
    Comparison,
    SavedReport,
    Verdict,
    check,
    compare,
    read_report,
)
from flowsr_export.bench.entries import Report
from flowsr_runtime.errors import InputError, RegressionError, UsageError
from tests.flowsr_export.bench.benchmarks import report, row

BLOCKS = 10
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def part(report: Report) -> SavedReport:
    """The part of a report that is compared."""
    environment = {"threads": report.settings["threads"]}
    return SavedReport({row.key: row for row in report.rows}, environment)


def compared(first: Report, second: Report) -> Comparison:
    return compare(part(first), part(second))


def measured(
    random: np.random.Generator,
    *,
    rows: int = 5,
    noise: float = 0.03,
    outliers: float = 0.1,
    factor: float = 1.0,
) -> Report:
    """A report whose blocks scatter as those of a machine do, some of them far out."""
    measured_rows = []
    for i in range(rows):
        times = 0.01 * (i + 1) * factor * np.exp(random.normal(0, noise, BLOCKS))
        times *= np.where(random.random(BLOCKS) < outliers, 1.3, 1.0)
        measured_rows.append(row([float(t) for t in times], str(i + 2)))
    return report(measured_rows)


@pytest.mark.parametrize("noise", [0.01, 0.03, 0.1])
def test_a_machine_against_itself_is_no_change_in_19_of_20(noise: float) -> None:
    random = np.random.default_rng(7)
    changed = 0
    for _ in range(40):
        result = compared(measured(random, noise=noise), measured(random, noise=noise))
        words = {verdict.word for verdict in result.verdicts}
        changed += not words <= {"equal", "inconclusive"}
    assert changed <= 2


@pytest.mark.parametrize(("factor", "word"), [(1.2, "worse"), (0.8, "better")])
def test_a_change_of_a_fifth_is_found(factor: float, word: str) -> None:
    random = np.random.default_rng(3)
    before = measured(random, outliers=0.0)
    result = compared(before, measured(random, outliers=0.0, factor=factor))
    assert [v.word for v in result.verdicts] == [word] * 5


def test_the_interval_holds_the_ratio() -> None:
    random = np.random.default_rng(3)
    result = compared(measured(random), measured(random, factor=1.1))
    assert all(v.low and v.high and v.low <= v.ratio <= v.high for v in result.verdicts)


def test_a_row_that_is_worse_beyond_the_threshold_is_refused() -> None:
    result = compared(report([row([0.01] * BLOCKS)]), report([row([0.012] * BLOCKS)]))
    with pytest.raises(RegressionError, match=r"1 of 1 rows .* 1\.20 times as long"):
        check(result, 0.05)


def test_a_row_that_is_worse_within_the_threshold_is_accepted() -> None:
    result = compared(report([row([0.01] * BLOCKS)]), report([row([0.0104] * BLOCKS)]))
    check(result, 0.05)
    assert [v.word for v in result.verdicts] == ["equal"]


def test_loaded_blocks_give_no_verdict() -> None:
    usual = row([0.02] * BLOCKS)
    blocks = tuple(replace(block, loaded=True) for block in usual.blocks)
    loaded = replace(usual, blocks=blocks)
    (verdict,) = compared(report([row([0.01] * BLOCKS)]), report([loaded])).verdicts
    note = "fewer than 5 undisturbed blocks"
    assert verdict == Verdict(usual.key, "inconclusive", 2.0, None, None, note)


def test_rows_are_matched_by_what_they_measure() -> None:
    first = report([row([0.01] * BLOCKS, "2"), row([0.01] * BLOCKS, "3")])
    second = report([row([0.01] * BLOCKS, "3"), row([0.01] * BLOCKS, "4")])
    result = compared(first, second)
    assert [v.row.scale for v in result.verdicts] == ["3"]
    assert [name[-5:] for name in result.only_first + result.only_second] == ["16x16", "32x32"]


def test_other_machines_are_named() -> None:
    first = report([row([0.01] * BLOCKS)])
    second = report([row([0.01] * BLOCKS)], settings={**first.settings, "threads": 8})
    assert compared(first, second).notes == ["threads"]


def test_reports_without_a_common_row_are_refused() -> None:
    with pytest.raises(UsageError, match="no row in common"):
        compared(report([row([1.0] * 5, "2")]), report([row([1.0] * 5, "3")]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a report"),
        ("[1]", "is not a report"),
        (json.dumps({"rows": [], "machine": {}}), "is not a report"),
        (json.dumps({"rows": [], "machine": {}, "schema": 9}), "must have schema 1, got 9"),
    ],
)
def test_what_is_no_report_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_report(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        read_report(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["bench-built-in.json", "bench-edsr-baseline.json"])
def test_published_reports_are_equal_to_themselves(name: str) -> None:
    saved = read_report(RESULTS / name)
    result = compare(saved, saved)
    assert {v.word for v in result.verdicts} <= {"equal", "inconclusive"}
    assert result.notes == []
