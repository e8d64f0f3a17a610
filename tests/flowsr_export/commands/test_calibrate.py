"""The `calibrate` command, also with unusable images."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from flowsr_runtime import Bundle, write_picture
from flowsr_runtime.installation import pip_command
from tests.flowsr_calibration.graphs import photograph
from tests.flowsr_export.calibration.calibrations import made_bundle, photographs_in

Run = Callable[..., Result]
SMALL = ("--samples", "6", "--crop", "16", "--threads", "1")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A bundle whose network doubles pictures."""
    return made_bundle(tmp_path / "small.bundle").path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of photographs."""
    return photographs_in(tmp_path / "photos")


def calibrate(run: Run, small: Path, images: Path, *options: object) -> Result:
    place = small.with_name("made.bundle")
    return run("calibrate", small, "--images", images, *SMALL, "-o", place, *options)


def test_a_bundle_gets_a_graph_of_eight_bits(
    run: Run, small: Path, images: Path, tmp_path: Path
) -> None:
    done = calibrate(run, small, images, "--budget-db", "30")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "multiply-adds in int8: " in done.stdout
    assert Bundle.open(tmp_path / "made.bundle").model_name("int8") == "model.int8.onnx"
    assert (tmp_path / "made.bundle.calibration").is_dir()


def test_json_is_one_object(run: Run, small: Path, images: Path) -> None:
    done = calibrate(run, small, images, "--budget-db", "30", "--json")
    assert json.loads(done.stdout)["type"] == "int8"


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """No shift of a channel is small enough."""
    monkeypatch.setattr("flowsr_export.calibration.gates.MAX_COLOR_SHIFT", 0.0)


@pytest.mark.usefixtures("strict")
def test_a_gate_that_is_missed_writes_nothing(
    run: Run, small: Path, images: Path, tmp_path: Path
) -> None:
    done = calibrate(run, small, images, "--max-psnr-loss", "0.1")
    assert done.exit_code == 3
    assert "gates are missed, nothing is written: red must shift by at most 0" in done.stderr
    assert done.stderr.endswith("; 6 usable images were given, 90 or more are wanted\n")
    assert not (tmp_path / "made.bundle").exists()
    lines = done.stdout.splitlines()
    assert lines[0].startswith("not written  ")
    assert any(line.startswith("held out, ") for line in lines)
    assert lines[-1].startswith("missed: ")
    measured = calibrate(run, small, images, "--max-psnr-loss", "0.1", "--json")
    assert (measured.exit_code, json.loads(measured.stdout)["path"]) == (3, None)


@pytest.mark.usefixtures("strict")
def test_force_writes_it_and_says_what_is_missed(
    run: Run, small: Path, images: Path, tmp_path: Path
) -> None:
    done = calibrate(run, small, images, "--max-psnr-loss", "0.1", "--force")
    assert (done.exit_code, (tmp_path / "made.bundle").is_dir()) == (0, True)
    assert "missed: red must shift" in done.stdout


def test_what_is_there_is_not_overwritten_and_no_time_is_lost(
    run: Run, small: Path, tmp_path: Path
) -> None:
    made_bundle(tmp_path / "made.bundle")
    done = calibrate(run, small, tmp_path / "photos")
    assert done.exit_code == 1
    assert "exists" in done.stderr


def test_a_missing_library_is_named_before_the_slow_work(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = calibrate(run, small, tmp_path / "photos")
    assert done.exit_code == 4
    assert f"matplotlib is not installed; {pip_command('bench')}" in done.stderr


def test_two_budgets_are_refused(run: Run, small: Path, tmp_path: Path) -> None:
    both = ("--budget-db", "40", "--max-psnr-loss", "0.1")
    done = calibrate(run, small, tmp_path, *both)
    assert done.exit_code == 2
    assert "give either --budget-db or --max-psnr-loss, not both" in done.stderr


def test_an_empty_folder_ends_with_one_line(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    done = calibrate(run, small, tmp_path / "photos")
    assert done.exit_code == 5
    assert done.stderr.startswith(f"flowsr-export: folder {tmp_path / 'photos'}")


def test_corrupt_files_among_good_ones_are_named(run: Run, small: Path, images: Path) -> None:
    (images / "broken.png").write_bytes((images / "0.png").read_bytes()[:300])
    (images / "notes.jpg").write_text("not a picture")
    done = calibrate(run, small, images, "--budget-db", "30")
    assert done.exit_code == 0
    assert done.stdout.count("skipped: ") == 2


def test_a_folder_of_sixteen_bit_files_is_read(run: Run, small: Path, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    images.mkdir()
    for seed in range(4):
        write_picture(images / f"{seed}.png", photograph(seed, 40).astype(np.uint16) * 257)
    done = calibrate(run, small, images, "--budget-db", "30")
    assert (done.exit_code, "skipped" in done.stdout) == (0, False)


def test_the_graph_upscales_and_is_inspected(
    run: Run, small: Path, images: Path, tmp_path: Path
) -> None:
    assert calibrate(run, small, images, "--budget-db", "30").exit_code == 0
    made, target = tmp_path / "made.bundle", tmp_path / "large.png"
    done = run("upscale", made, images / "0.png", "-o", target, "--precision", "int8")
    assert (done.exit_code, target.exists()) == (0, True)
    assert "model.int8.onnx" in run("inspect", made).stdout
