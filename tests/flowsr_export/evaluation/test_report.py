"""The report: every value in CSV and JSON, means in Markdown."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from flowsr_export.evaluation.protocol import OWN
from flowsr_export.evaluation.report import (
    as_csv,
    as_json,
    as_markdown,
    means_of,
    report_paths,
    write_report,
)
from tests.flowsr_export.evaluation.evaluations import ROW, ROWS

SHEET = Image.new("RGB", (4, 3), (1, 2, 3))


def about(**changes: Any) -> dict[str, Any]:
    settings = {
        **{"backend": "onnxruntime", "provider": "cpu", "precision": "fp32", "lr": []},
        **{"temperature": None, "samples": 1, "seed": 0, "shave": None},
        "protocol": {"name": "own", **asdict(OWN)},
        "scales_reduced": [],
    }
    return {
        "command": "flowsr-export evaluate --hr Set5",
        "model": {"what": "model.fp32.onnx of built-in bundle"},
        "settings": settings | changes,
        "libraries": {"flowsr-lp": "0.1.0", "onnxruntime": "1.32.0"},
    }


def test_means_are_by_set_scale_and_method() -> None:
    other = replace(ROW, scale="2", figures={"psnr-y": 40.0, "lpips": 0.5})
    means = means_of([*ROWS, other])
    assert [(m.dataset, m.scale, m.method, m.pictures) for m in means] == [
        ("Set5", "4", "bicubic", 2),
        ("Set5", "4", "flowsr-lp", 2),
        ("Set5", "2", "bicubic", 1),
    ]
    assert [m.figures["psnr-y"] for m in means] == [28.75, 30.5, 40.0]


def test_csv_has_a_line_for_each_row() -> None:
    lines = list(csv.DictReader(as_csv(ROWS).splitlines()))
    assert len(lines) == len(ROWS)
    assert lines[1] == {
        **{"set": "Set5", "picture": "bird", "scale": "4", "method": "flowsr-lp"},
        **{"lr_width": "9", "lr_height": "6", "width": "36", "height": "24"},
        **{"samples": "1", "seconds": "0.5000", "psnr-y": "30.0", "lpips": "0.125"},
    }


def test_json_holds_rows_means_and_how_they_came_about() -> None:
    content = json.loads(json.dumps(as_json(ROWS, about())))
    assert content["schema"] == 1
    assert content["command"].startswith("flowsr-export evaluate")
    assert [mean["figures"]["lpips"] for mean in content["means"]] == [0.5, 0.1875]
    assert content["means"][0]["set"] == content["rows"][0]["set"] == "Set5"
    assert content["rows"][0]["samples"] == [ROW.figures]


def test_the_table_has_a_line_for_each_set_scale_and_method() -> None:
    text = as_markdown(ROWS, about())
    assert [line for line in text.splitlines() if line.startswith("|")] == [
        "| set | scale | method | pictures | psnr-y | lpips |",
        "| --- | --- | --- | --- | --- | --- |",
        "| Set5 | ×4 | bicubic | 2 | 28.75 | 0.500 |",
        "| Set5 | ×4 | flowsr-lp | 2 | 30.50 | 0.188 |",
    ]
    assert "- psnr-y: dB, luma; higher is better." in text
    assert "- Shaved on every side: psnr-y the scale." in text
    assert "onnxruntime cpu fp32; inputs by MATLAB's bicubic; flowsr-lp 0.1.0" in text


def test_the_table_says_what_was_not_as_usual() -> None:
    rows = [replace(ROW, warnings=("the inverse of the flow may have exploded",))]
    text = as_markdown(rows, about(temperature=[0.8], samples=5, seed=3, shave=0, lr=["LR"]))
    assert "temperature 0.8, 5 samples from seed 3; inputs given" in text
    assert "- Shaved on every side: 0 pixels of the outputs." in text
    assert "- Warning, Set5 bird ×4, bicubic: the inverse of the flow may have" in text


def test_a_report_is_four_files(tmp_path: Path) -> None:
    paths = report_paths(tmp_path / "new" / "set5.json", force=False)
    write_report(ROWS, about(), SHEET, paths)
    assert [path.name for path in paths] == ["set5.csv", "set5.json", "set5.md", "set5.png"]
    assert json.loads(paths[1].read_text(encoding="utf-8")) == json.loads(
        json.dumps(as_json(ROWS, about()))
    )
    with Image.open(paths[3]) as sheet:
        assert sheet.size == (4, 3)
