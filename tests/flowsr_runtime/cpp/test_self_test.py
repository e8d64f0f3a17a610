"""The C++ runtime meets the golden pair before it computes anything, as Python does."""

import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime import embedded_bundle
from flowsr_runtime.bundle import verdicts
from flowsr_runtime.bundle.directory import Bundle, write_bundle
from flowsr_runtime.bundle.verdicts import kept_verdicts
from tests.flowsr_runtime.conftest import BILINEAR, CHANGES, EIGHT_BIT
from tests.flowsr_runtime.cpp.library import CppError, CppLibrary
from tests.flowsr_runtime.golden import golden_bundle


@pytest.fixture
def golden(tmp_path: Path, manifest: dict[str, Any]) -> Bundle:
    return golden_bundle(tmp_path / "golden", manifest, BILINEAR)


@pytest.fixture
def picture(tmp_path: Path, photo: NDArray[np.uint8]) -> Path:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def replaced(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """Write a copy of a bundle with another content of one file."""
    contents = {file: bundle.read(file) for file in bundle.manifest.files}
    raw = dict(bundle.manifest.raw)
    folder = tempfile.mkdtemp(dir=bundle.path.parent)
    return write_bundle(Path(folder, "b"), raw, {**contents, name: content})


def moved(bundle: Bundle, amount: float) -> Bundle:
    """Return the bundle with a golden output that its graph misses by some amount."""
    right = np.load(io.BytesIO(bundle.read("golden/output.npy")))
    wrong = io.BytesIO()
    np.save(wrong, right + np.float32(amount))
    return replaced(bundle, "golden/output.npy", wrong.getvalue())


def test_the_verdict_is_kept_where_python_keeps_and_shows_it(
    cpp: CppLibrary, golden: Bundle, picture: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = tmp_path / "cache" / "flowsr-lp" / "self-tests"
    words = (golden.path, picture, tmp_path / "o.png", "--scale", "2", "--force")
    for _ in range(2):
        done = cpp.run("flowsr-upscale", *words, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert (done.returncode, done.stderr) == (0, "")
    monkeypatch.setattr(verdicts, "cache_folder", lambda: folder)
    (kept,) = kept_verdicts()
    assert (kept.key["interface"], kept.passed) == ("cpp", True)
    assert kept.key["model"] == golden.manifest.files["model.fp32.onnx"].sha256
    assert kept.key["device"] == verdicts.device_name("cpu", 0)
    assert verdicts.kept_verdict(kept.key) == kept


def test_a_kept_verdict_spares_the_run_and_a_miss_is_tested_again(
    cpp: CppLibrary, golden: Bundle, picture: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    words = (moved(golden, 0.5).path, picture, tmp_path / "o.png", "--scale", "2")
    for _ in range(2):
        done = cpp.run("flowsr-upscale", *words, XDG_CACHE_HOME=str(cache))
        assert done.returncode == 3
        assert "max error must be at most 0.0001, got 0.5; nothing is computed" in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o.png").exists()
    (path,) = (cache / "flowsr-lp" / "self-tests").iterdir()
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "passed": True}))
    assert cpp.run("flowsr-upscale", *words, XDG_CACHE_HOME=str(cache)).returncode == 0


@pytest.mark.parametrize(
    "home", [{"HOME": "", "XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "/proc"}]
)
def test_without_a_place_for_verdicts_nothing_is_kept(
    cpp: CppLibrary, golden: Bundle, picture: Path, tmp_path: Path, home: dict[str, str]
) -> None:
    words = (golden.path, picture, tmp_path / "o.png", "--scale", "2")
    done = cpp.run("flowsr-upscale", *words, **home)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_self_test_that_is_switched_off_is_said(
    cpp: CppLibrary, golden: Bundle, picture: Path, tmp_path: Path
) -> None:
    wrong = moved(golden, 0.5)
    words = (wrong.path, picture, tmp_path / "o.png", "--scale", "2", "--no-self-test")
    done = cpp.run("flowsr-upscale", *words)
    assert done.returncode == 0
    assert done.stderr == "flowsr-upscale: not tested: the self-test was switched off\n"
    with pytest.raises(CppError, match="misses the golden pair") as error:
        cpp.open(wrong.path)
    assert error.value.code == 3
    with cpp.open(wrong.path, no_self_test=1) as upscaler:
        assert upscaler.untested == "the self-test was switched off"


def test_a_bundle_without_a_golden_pair_is_opened_and_says_so(
    cpp: CppLibrary, bundle: Bundle
) -> None:
    with cpp.open(bundle.path) as upscaler:
        assert upscaler.untested == "the bundle holds no golden pair"


def test_a_bundle_can_state_the_tolerance_of_its_golden_pair(
    cpp: CppLibrary, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    loose = golden_bundle(tmp_path / "loose", manifest, BILINEAR, max_abs=5e-4)
    with cpp.open(moved(loose, 4e-4).path) as upscaler:
        assert upscaler.untested == ""
    with pytest.raises(CppError, match=r"at most 0\.0005, got 0\.0008"):
        cpp.open(moved(loose, 8e-4).path)


def test_a_graph_of_eight_bits_is_tested_in_its_own_type(
    cpp: CppLibrary, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    eight = golden_bundle(tmp_path / "eight", {**manifest, **CHANGES["eight-bit"]}, EIGHT_BIT)
    with cpp.open(eight.path) as upscaler:
        assert upscaler.untested == ""


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("kind", ["noise", "smooth", "flat"])
def test_every_form_of_compression_of_the_picture_is_read(
    cpp: CppLibrary, tmp_path: Path, manifest: dict[str, Any], level: int, kind: str
) -> None:
    golden = golden_bundle(tmp_path / "golden", manifest, BILINEAR)
    rows, columns = np.mgrid[0:16, 0:20]
    pictures = {
        "noise": np.random.default_rng(5).integers(0, 256, (16, 20, 3)),
        "smooth": np.stack([rows * 9 + columns * 3, columns * 12, rows * columns % 256], -1),
        "flat": np.full((16, 20, 3), 77),
    }
    image = pictures[kind].astype(np.uint8)
    png, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(png, "PNG", compress_level=level)
    large = cpp_upscaled(cpp, golden, image)
    np.save(array, large.transpose(2, 0, 1))
    changed = replaced(golden, "golden/input.png", png.getvalue())
    changed = replaced(changed, "golden/output.npy", array.getvalue())
    with cpp.open(changed.path) as upscaler:
        assert upscaler.untested == ""


def cpp_upscaled(cpp: CppLibrary, bundle: Bundle, image: NDArray[np.uint8]) -> NDArray[Any]:
    with cpp.open(bundle.path, no_self_test=1) as upscaler:
        floats = image.astype(np.float32) / np.float32(255)
        return upscaler.upscale(floats, height=40, width=50, unclamped=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("case.json", b"{", "is not valid JSON"),
        ("case.json", b"{}", "states no size"),
        ("case.json", b'{"size": [0, 4]}', "states no size"),
        ("case.json", b'{"size": [4, 4]}', "not of the size that golden/case.json states"),
        ("input.png", b"no png", "is not a PNG"),
        ("output.npy", b"no array", "is not an array of NumPy"),
    ],
)
def test_a_golden_pair_that_is_none_is_refused(
    cpp: CppLibrary, golden: Bundle, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(CppError, match=message) as error:
        cpp.open(replaced(golden, f"golden/{name}", content).path)
    assert error.value.code == 5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_a_picture_of_another_kind_is_refused(
    cpp: CppLibrary, golden: Bundle, mode: str
) -> None:
    png = io.BytesIO()
    Image.new("RGB", (20, 16)).convert(mode).save(png, "PNG")
    with pytest.raises(CppError, match="is not a small RGB picture of 8 bits"):
        cpp.open(replaced(golden, "golden/input.png", png.getvalue()).path)


def test_a_picture_that_is_damaged_is_refused_and_never_read_beyond(
    cpp: CppLibrary, golden: Bundle
) -> None:
    rows, columns = np.mgrid[0:16, 0:20]
    smooth = np.stack([rows * 9, columns * 12, rows * columns % 199], -1).astype(np.uint8)
    png = io.BytesIO()
    Image.fromarray(smooth).save(png, "PNG")
    whole = png.getvalue()
    begin = whole.index(b"IDAT") + 4
    rng = np.random.default_rng(0)
    codes = []
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(begin, len(whole) - 16, 3):
            data[at] ^= int(rng.integers(1, 256))
        with pytest.raises(CppError, match="golden") as error:
            cpp.open(replaced(golden, "golden/input.png", bytes(data)).path)
        codes.append(error.value.code)
    assert 5 in codes
    assert set(codes) <= {3, 5}


def test_the_shipped_bundle_is_tested(cpp: CppLibrary, tmp_path: Path) -> None:
    shutil.copytree(embedded_bundle(), tmp_path / "b")
    with cpp.open(tmp_path / "b") as upscaler:
        assert upscaler.untested == ""


@pytest.mark.parametrize("options", [{"tf32": 1}, {"exhaustive_search": 1}])
def test_options_of_cuda_are_refused_elsewhere(
    cpp: CppLibrary, bundle: Bundle, options: dict[str, int]
) -> None:
    with pytest.raises(CppError, match="tf32 and convolution_search are for provider cuda"):
        cpp.open(bundle.path, **options)
