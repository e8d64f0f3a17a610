"""The three files of a report, and their pictures."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flowsr_export.bench.charts import pictures_of
from flowsr_export.bench.report import as_html, as_markdown, growth_lines, write_report
from flowsr_runtime.errors import OutputError
from tests.flowsr_export.bench.benchmarks import report, row


def measured(**changes: Any) -> dict[str, Any]:
    return report([row([0.01] * 5, "2"), row([0.03] * 5, "4")], **changes)


def test_markdown_holds_every_row_and_the_command() -> None:
    text = as_markdown(measured(), "flowsr-export bench -o x")
    assert "`flowsr-export bench -o x`" in text
    assert "| onnxruntime cpu fp32, graph, ×2, 8x8 to 16x16 | 10 | 10 |" in text
    assert text.count("×4, 8x8 to 32x32") == 2


def test_every_line_of_a_table_has_as_many_cells() -> None:
    tables = as_markdown(measured(), "x").split("\n## ")[1:]
    for table in tables:
        bars = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(bars) == 1


def test_a_loaded_machine_is_stated() -> None:
    loaded = report([row([0.01] * 5, load="loaded", loaded_blocks=4)])
    text = as_markdown(loaded, "x")
    assert "Other processes were busy: 1 of 1 rows" in text
    assert "loaded, 4 blocks" in text


def test_what_was_not_measured_is_stated() -> None:
    text = as_markdown(measured(not_started={"onnxruntime cuda": "no device"}), "x")
    assert "Not measured, onnxruntime cuda: no device." in text


def test_growth_is_printed_with_its_departures() -> None:
    fit = {
        "backend": "torch",
        "provider": "cpu",
        "precision": "fp32",
        "measures": "graph",
        "seconds": 0.002,
        "seconds_per_input_pixel": 3e-6,
        "seconds_per_output_pixel": 4e-7,
        "worst": 0.2,
        "departures": [{"scale": "2", "lr": [8, 9], "size": [16, 18], "ratio": 1.2}],
    }
    lines = growth_lines({"growth": [fit]})
    assert lines == [
        "torch cpu fp32, graph: 2 ms + 3 ms per 1000 input pixels + 0.4 ms per 1000 output "
        "pixels; at most 20% from it",
        "torch cpu fp32, graph departs at 9x8, ×2: 1.20 times the fit",
    ]
    assert lines[0] in as_markdown(measured(growth=[fit]), "x")


def test_the_page_needs_no_other_file() -> None:
    page = as_html(measured(), "x <y>")
    assert page.count("<svg") == 4
    assert "x &lt;y&gt;" in page
    assert "src=" not in page
    assert "<link" not in page


def test_pictures_are_drawn_of_what_is_there() -> None:
    rows = [row([0.01] * 5, efficiency=None, memory=None)]
    assert list(pictures_of(report(rows, stages=[]))) == ["Latency per scale"]


def test_pictures_are_valid_and_repeat() -> None:
    first, second = pictures_of(measured()), pictures_of(measured())
    assert first == second
    assert {ElementTree.fromstring(svg).tag for svg in first.values()} == {
        "{http://www.w3.org/2000/svg}svg"
    }


def test_three_files_are_written(tmp_path: Path) -> None:
    paths = write_report(measured(), tmp_path / "new" / "report.json", "a command")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert json.loads(paths[0].read_text(encoding="utf-8"))["command"] == "a command"


def test_a_dot_in_a_name_is_no_ending(tmp_path: Path) -> None:
    paths = write_report(measured(), tmp_path / "v1.5", "x")
    assert [path.name for path in paths] == ["v1.5.json", "v1.5.md", "v1.5.html"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match=r"report\.md exists"):
        write_report(measured(), tmp_path / "report", "x")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "old"
    write_report(measured(), tmp_path / "report", "x", force=True)
