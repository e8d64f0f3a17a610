"""`python -m flowsr_runtime` upscales an image without click."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowsr_runtime import Bundle, Upscaler, __version__, read_picture
from flowsr_runtime.__main__ import main

START = "python -m flowsr_runtime: "


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of 12 columns and 10 rows."""
    pixels = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_module_upscales_like_the_library(
    bundle: Bundle, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = tmp_path / "large.png"
    assert main([str(bundle.path), str(photo), "-o", str(large), "--scale", "2.5x2"]) == 0
    untested = f"{START}not tested: the bundle holds no golden pair\n"
    assert capsys.readouterr() == (f"{large}  30x20\n", untested)
    with Upscaler.open(bundle) as upscaler:
        expected = upscaler.upscale(read_picture(photo).pixels, scale=(2, 2.5))
    assert np.array_equal(read_picture(large).pixels, expected)


def test_the_self_test_can_be_switched_off_and_that_is_said(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(photo), "-o", str(tmp_path / "large.png"), "--scale", "2", "--force"]
    assert main(words) == 0
    assert capsys.readouterr().err == ""
    assert main([*words, "--no-self-test"]) == 0
    assert capsys.readouterr().err == f"{START}not tested: the self-test was switched off\n"


def test_it_runs_without_click_and_pytorch(photo: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules.update(click=None, torch=None); import runpy; "
    program += "runpy.run_module('flowsr_runtime', run_name='__main__')"
    words = [str(photo), "-o", str(tmp_path / "large.png"), "--size", "30x20"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path / 'large.png'}  30x20\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("", 2, "the following arguments are required: IMAGE, -o/--output"),
        ("photo.png -o o.png --scale 1x2x3", 2, "argument --scale: scale must be such as 4"),
        ("photo.png -o o.png --scale nan", 2, "scale must be a finite number, got nan"),
        ("photo.png -o o.png", 2, "scale"),
        ("none.png -o o.png --scale 2", 5, "none.png does not exist"),
        ("none photo.png -o o.png --scale 2", 5, "bundle none does not exist"),
        ("photo.png -o photo.png --scale 2", 1, "photo.png exists; --force replaces it"),
        ("photo.png -o o.png --scale 2 --backend ncnn", 2, "got 'ncnn'"),
        ("photo.png -o o.png --scale 2 --fast", 2, "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_input_is_one_line_and_its_code(
    words: str,
    code: int,
    message: str,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photo.parent)
    before = sorted(photo.parent.iterdir())
    assert main(words.split()) == code
    out, err = capsys.readouterr()
    assert (out, err.startswith(START), err.count("\n")) == ("", True, 1)
    assert message in err
    assert sorted(photo.parent.iterdir()) == before


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"flowsr_runtime {__version__}\n"
