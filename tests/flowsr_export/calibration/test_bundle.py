import json
from dataclasses import replace
from pathlib import Path

import pytest

from flowsr_export.calibration.bundle import write_calibrated
from flowsr_export.calibration.run import Calibration
from flowsr_runtime import Bundle, OutputError, Upscaler
from tests.flowsr_calibration.graphs import photograph
from tests.flowsr_export.calibration.calibrations import calibrated as calibrated
from tests.flowsr_export.calibration.calibrations import made_bundle

Calibrated = tuple[Bundle, Calibration]


@pytest.fixture
def made(calibrated: Calibrated, tmp_path: Path) -> Bundle:
    """The bundle with both graphs."""
    return write_calibrated(calibrated[0], tmp_path / "made", calibrated[1])


def test_a_new_bundle_holds_both_graphs_and_what_was_found(
    calibrated: Calibrated, made: Bundle
) -> None:
    source, done = calibrated
    made.check_files()
    assert made.model_bytes("int8") == done.content
    assert made.model_bytes("fp32") == source.model_bytes("fp32")
    assert sorted(made.manifest.files) == [
        "calibration/int8.json",
        "calibration/int8.md",
        "calibration/int8.svg",
        f"calibration/statistics-{done.statistics.key[:16]}.npz",
        "model.fp32.onnx",
        "model.int8.onnx",
    ]


def test_the_manifest_states_how_the_graph_was_made(
    calibrated: Calibrated, made: Bundle
) -> None:
    done = calibrated[1]
    raw = json.loads((made.path / "bundle.json").read_text())
    stated = raw["files"]["model.int8.onnx"]["quantization"]
    assert (stated["method"], stated["samples"]) == ("mse", 6)
    assert stated["statistics"] in raw["files"]
    assert stated["statistics_key"] == done.statistics.key
    assert set(stated["blocks"]) == {layer.block for layer in done.choice.layers}
    assert stated["gates"]["psnr"] == done.gates.psnr


def test_a_bundle_gets_the_graph_itself_and_keeps_what_lies_beside(
    calibrated: Calibrated, tmp_path: Path
) -> None:
    bundle = made_bundle(tmp_path / "own")
    (bundle.path / "engines").mkdir()
    (bundle.path / "engines" / "x.engine").write_bytes(b"plan")
    made = write_calibrated(bundle, bundle.path, calibrated[1])
    assert made.model_name("int8") == "model.int8.onnx"
    assert (bundle.path / "engines" / "x.engine").read_bytes() == b"plan"


def test_a_graph_that_is_there_is_replaced_with_force_alone(
    calibrated: Calibrated, tmp_path: Path
) -> None:
    done = calibrated[1]
    made = write_calibrated(made_bundle(tmp_path / "own"), tmp_path / "own", done)
    with pytest.raises(OutputError, match=r"model.int8.onnx"):
        write_calibrated(made, made.path, done)
    other = replace(done, statistics=replace(done.statistics, key="f" * 64))
    again = write_calibrated(made, made.path, other, force=True)
    assert "calibration/statistics-ffffffffffffffff.npz" in again.manifest.files
    again.check_files()


def test_another_bundle_is_not_overwritten(calibrated: Calibrated, tmp_path: Path) -> None:
    made_bundle(tmp_path / "other")
    with pytest.raises(OutputError, match="other exists"):
        write_calibrated(calibrated[0], tmp_path / "other", calibrated[1])


def test_an_upscaler_runs_the_graph(made: Bundle) -> None:
    picture = photograph(0, 20)
    with Upscaler.open(made, precision="int8") as ours, Upscaler.open(made) as float32:
        difference = ours.upscale(picture).astype(int) - float32.upscale(picture)
    assert 0 < abs(difference).max() < 40
