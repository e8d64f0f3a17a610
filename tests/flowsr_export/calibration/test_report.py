import json
from dataclasses import replace

from flowsr_export.calibration.report import frontier_chart, markdown, report_of
from flowsr_export.calibration.run import Calibration
from flowsr_runtime import Bundle
from tests.flowsr_export.calibration.calibrations import calibrated as calibrated

Calibrated = tuple[Bundle, Calibration]


def test_the_report_is_json_with_every_figure(calibrated: Calibrated) -> None:
    report = json.loads(json.dumps(report_of(calibrated[1]), allow_nan=False))
    assert (report["type"], report["method"], report["samples"]) == ("int8", "mse", 6)
    assert len(report["blocks"]) == 6
    assert 0.9 < report["share"] <= report["share_of_weights"] < 1
    assert report["frontier"][0]["left_out"] == []
    assert report["gates"]["missed"] == []


def test_the_tables_name_gates_corrections_and_blocks(calibrated: Calibrated) -> None:
    done = calibrated[1]
    pictures = replace(done.pictures, skipped=("a.png is damaged",))
    text = markdown(replace(done, pictures=pictures))
    assert "Skipped: a.png is damaged" in text
    assert "| increase of LPIPS | not measured |" in text
    assert "| conditioner.first | " in text
    assert text.count(" | yes |") + text.count(" | no |") == 3


def test_the_picture_is_the_same_for_the_same_figures(calibrated: Calibrated) -> None:
    done = calibrated[1]
    first = frontier_chart(done)
    assert first == frontier_chart(done)
    assert first.startswith("<svg")
    assert "multiply-adds in int8, %" in first
