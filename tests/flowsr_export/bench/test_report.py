"""The three files of a report, and their charts."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from flowsr_export.bench.charts import draw_charts
from flowsr_export.bench.entries import Departure, Report, ScalingFit
from flowsr_export.bench.report import as_markdown, scaling_lines, write_report
from tests.flowsr_export.bench.benchmarks import report, row


def measured(**changes: Any) -> Report:
    return report([row([0.01] * 5, "2"), row([0.03] * 5, "4")], **changes)


def test_markdown_holds_every_row_and_the_command() -> None:
    text = as_markdown(measured(), "flowsr-export bench -o x")
    assert "`flowsr-export bench -o x`" in text
    assert "| onnxruntime cpu fp32, graph, ×2, 8x8 to 16x16 | 10 | 10 |" in text
    assert text.count("×4, 8x8 to 32x32") == 2


def test_a_row_names_the_size_fixed_graph_that_it_ran() -> None:
    done = measured()
    done.bundle["size_fixed"] = {"8x8 to 16x16, batch 1": "model.fp32.x2.8x8.onnx"}
    text = as_markdown(done, "x")
    assert "| onnxruntime cpu fp32, graph, ×2, 8x8 to 16x16, model.fp32.x2.8x8.onnx |" in text
    assert "model.fp32.x4" not in text


def test_loaded_and_missing_rows_are_stated() -> None:
    loaded = report(
        [row([0.01] * 5, load="loaded", loaded_blocks=4)],
        not_started={"onnxruntime cuda": "no device"},
    )
    text = as_markdown(loaded, "x")
    assert "Other processes were busy or the GPU was throttled: 1 of 1 rows" in text
    assert "loaded, 4 blocks" in text
    assert "Not measured, onnxruntime cuda: no device." in text


def test_growth_is_printed_with_its_departures() -> None:
    departure = Departure("2", (8, 9), (16, 18), 1.2)
    costs = 0.002, 3e-6, 4e-7
    fit = ScalingFit("torch", "cpu", "fp32", "graph", *costs, 0.2, (departure,))
    lines = scaling_lines(fit)
    assert lines == [
        "torch cpu fp32, graph: 2 ms + 3 ms per 1000 input pixels + 0.4 ms per 1000 output "
        "pixels; rows differ by at most 20%",
        "torch cpu fp32, graph departs at 9x8, ×2: 1.20 times the fit",
    ]
    assert lines[0] in as_markdown(measured(growth=(fit,)), "x")
    without = ScalingFit("torch", "cpu", "fp32", "graph", trouble="too few rows")
    assert scaling_lines(without) == ["torch cpu fp32, graph: too few rows"]


def test_only_present_values_are_drawn() -> None:
    rows = [row([0.01] * 5, efficiency=None, memory=None)]
    assert list(draw_charts(report(rows, stages=()))) == ["Latency per scale"]


def test_charts_are_valid_and_reproducible() -> None:
    first, second = draw_charts(measured()), draw_charts(measured())
    assert first == second
    assert {ElementTree.fromstring(svg).tag for svg in first.values()} == {
        "{http://www.w3.org/2000/svg}svg"
    }


def test_three_files_are_written(tmp_path: Path) -> None:
    paths = write_report(measured(), tmp_path / "new" / "report.json", "a <command>")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert json.loads(paths[0].read_text(encoding="utf-8"))["command"] == "a <command>"
    page = paths[2].read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert "a &lt;command&gt;" in page
