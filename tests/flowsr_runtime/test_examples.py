"""The example programs run."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.pictures.files import read_picture, write_picture
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.doubles.rig import Rig

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def file(photo: NDArray[np.uint8], tmp_path: Path) -> Path:
    """A picture file of 31x23."""
    write_picture(tmp_path / "photo.png", photo)
    return tmp_path / "photo.png"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> None:
    """Run an example as a program."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_quickstart_upscales_and_replaces_its_output(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = tmp_path / "large.png"
    for scale, size in (("4", (92, 124)), ("2.7", (62, 84))):
        run(monkeypatch, "quickstart.py", file, target, "--scale", scale)
        assert read_picture(target).size == size
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "<Upscaler default: onnxruntime cpu, fp32>"
    assert printed.splitlines()[-1] == "<Picture 84x62 RGB, 8 bits>"


def test_the_quickstart_takes_a_bundle(
    bundle: Bundle,
    file: Path,
    photo: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "large.png"
    run(monkeypatch, "quickstart.py", file, target, "--bundle", bundle.path)
    with Upscaler.open(bundle) as upscaler:
        due = upscaler.upscale(photo, 4)
    np.testing.assert_array_equal(read_picture(target).pixels, due)


def test_the_engine_example_runs_on_the_engine(
    rig: Rig,
    file: Path,
    photo: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rig.add()
    target = tmp_path / "large.png"
    words = (rig.bundle.path, file, target, "--backend", rig.backend)
    run(monkeypatch, "engine.py", *words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"<Upscaler own: {rig.backend} cuda:0, fp32>"
    assert len(lines) == 3
    assert all(line.endswith(" ms") for line in lines[1:])
    with Upscaler.open(rig.bundle, device="cpu") as upscaler:
        due = upscaler.upscale(photo, 4)
    np.testing.assert_array_equal(read_picture(target).pixels, due)


def test_the_engine_example_without_a_fitting_engine_says_why(
    eleven: Rig,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    eleven.add(eleven.key(compute_capability=("12.0",)))
    words = (eleven.bundle.path, file, tmp_path / "large.png")
    with pytest.raises(SystemExit, match=r"no engine runs here: .*compute_capability is 12\.0"):
        run(monkeypatch, "engine.py", *words, "--backend", "tensorrt")
    run(monkeypatch, "engine.py", *words, "--any")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "<Upscaler own: onnxruntime cpu, fp32>"
    assert lines[1].startswith("not tensorrt cuda:0, fp32: ")


def test_polygraphys_inputs_are_those_of_a_whole_image(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = runpy.run_path(str(EXAMPLES / "polygraphy_data.py"))
    loaded = list(example["load_data"]())
    assert len(loaded) == example["RUNS"]
    height, width = (n * example["SCALE"] for n in example["LR"])
    output = OnnxRuntimeSession.open(bundle).run(loaded[0])
    assert output.shape == (1, 3, height, width)
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "polygraphy_data.py")
    geometry = np.fromfile("geometry.bin", np.int64)
    np.testing.assert_array_equal(geometry, loaded[0]["geometry"])
    assert Path("input.bin").stat().st_size == loaded[0]["input"].nbytes
