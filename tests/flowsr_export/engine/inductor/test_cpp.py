"""Engines of Inductor in C++: the same pictures, choices and refusals as in Python."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_runtime import Bundle, Upscaler
from flowsr_runtime.bundle.engine_store import EngineKey, EngineStore
from flowsr_runtime.errors import FlowsrError
from flowsr_runtime.pictures.depth import to_depth
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.engine.inductor.engines import (
    NEEDS_COMPILER,
    SIZE,
    shared_bundle,
)
from tests.flowsr_runtime.cpp.library import CppError, CppLibrary, shared_library

pytestmark = [pytest.mark.slow, NEEDS_COMPILER]

CLOSE = 1e-6  # the same machine code runs in both


@pytest.fixture(scope="module")
def cpp(tmp_path_factory: pytest.TempPathFactory) -> CppLibrary:
    """The C++ runtime with ONNX Runtime and PyTorch."""
    library = shared_library(tmp_path_factory)
    assert library.native.flowsr_backends() == b"onnxruntime inductor"
    return library


@pytest.fixture(scope="module")
def built(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with an engine of one size and one of a range."""
    return shared_bundle(exported, tmp_path_factory)


@pytest.fixture
def bundle(built: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(built.path, tmp_path / "copy.bundle")
    return Bundle.open(tmp_path / "copy.bundle")


def picture_of(lr: tuple[int, int]) -> NDArray[np.uint8]:
    picture: NDArray[np.uint8] = to_depth(
        sample_pictures(Case(lr, lr))[0].transpose(1, 2, 0), 8
    )
    return picture


def change(bundle: Bundle, **fields: Any) -> None:
    """Store every engine under another key or other facts."""
    store = EngineStore(bundle.path)
    for entry in store.entries():
        content = store.read(entry)
        for path in (bundle.path / entry.name, bundle.path / f"{entry.name}.json"):
            path.unlink()
        facts = {**entry.facts, **{k: fields[k] for k in fields if k == "qualified"}}
        keyed = {k: v for k, v in fields.items() if k != "qualified"}
        store.add(EngineKey(**{**vars(entry.key), **keyed}), content, facts)


def python_error(bundle: Bundle, **settings: Any) -> FlowsrError:
    with pytest.raises(FlowsrError, match=r".") as caught:
        Upscaler.open(bundle, **settings)
    return caught.value


@pytest.mark.parametrize(
    ("lr", "scale"),
    [(SIZE.lr, "3"), ((16, 24), "1.7"), ((31, 17), "1.9")],
    ids=["one size", "a range", "odd sides"],
)
def test_pictures_agree_with_python(
    cpp: CppLibrary, built: Bundle, lr: tuple[int, int], scale: str
) -> None:
    picture = picture_of(lr)
    floats = picture.astype(np.float32) / np.float32(255)
    with (
        closing(Upscaler.open(built, backend="inductor")) as python,
        cpp.open(built.path, backend="inductor") as other,
    ):
        assert other.choice == str(python.choice) == "inductor cpu, fp32"
        assert other.untested == ""
        due = python.upscale(floats, scale, clamp=False)
        got = other.upscale(floats, scale_rows=scale, unclamped=1)
        steps = python.upscale(picture, scale).astype(int)
        steps -= other.upscale(picture, scale_rows=scale)
    np.testing.assert_allclose(got, due, atol=CLOSE)
    assert np.abs(steps).max() <= 1


def test_auto_takes_an_engine_before_the_graph(cpp: CppLibrary, built: Bundle) -> None:
    picture = picture_of(SIZE.lr)
    with cpp.open(built.path) as fast, cpp.open(built.path, provider="cpu") as graph:
        assert (fast.choice, graph.choice) == ("inductor cpu, fp32", "onnxruntime cpu, fp32")
        steps = fast.upscale(picture, scale_rows="3").astype(int)
        steps -= graph.upscale(picture, scale_rows="3")
    assert np.abs(steps).max() <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"qualified": False},
        {"version": "2.0.0"},
        {"compute_capability": ("cpu-x86_64-avx2-00000000",)},
        {"precision": "fp16"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_auto_passes_over_an_engine_that_does_not_fit(
    cpp: CppLibrary, bundle: Bundle, changes: dict[str, Any]
) -> None:
    change(bundle, **changes)
    with cpp.open(bundle.path, backend="auto") as upscaler:
        assert upscaler.choice == "onnxruntime cpu, fp32"
    with closing(Upscaler.open(bundle, device="cpu")) as python:
        assert str(python.choice) == "onnxruntime cpu, fp32"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("onnx_sha256", "0" * 64, "onnx_sha256 is 0+, wanted"),
        ("version", "2.0.0", r"version is 2\.0\.0, wanted"),
        ("compute_capability", ("cpu-x86_64-avx2-00000000",), "is cpu-x86_64-avx2-0+, wanted"),
        ("compute_capability", ("9.0",), r"is 9\.0, wanted|cuda:0 is not usable: PyTorch"),
        ("precision", "bf16", "precision is bf16, wanted fp32"),
    ],
)
def test_an_engine_of_another_key_is_refused_in_the_same_words(
    cpp: CppLibrary, bundle: Bundle, field: str, value: object, message: str
) -> None:
    change(bundle, **{field: value})
    with pytest.raises(CppError, match=message) as error:
        cpp.open(bundle.path, backend="inductor")
    due = python_error(bundle, backend="inductor", precision="fp32")
    assert (error.value.code, str(error.value)) == (due.exit_code, str(due))


@pytest.mark.parametrize("backend", ["auto", "inductor"])
@pytest.mark.parametrize("suffix", ["", ".json"])
def test_a_flipped_byte_is_refused_and_never_passed_over(
    cpp: CppLibrary, bundle: Bundle, suffix: str, backend: str
) -> None:
    for entry in EngineStore(bundle.path).entries():
        path = bundle.path / f"{entry.name}{suffix}"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(CppError, match="is damaged") as error:
        cpp.open(bundle.path, backend=backend)
    assert error.value.code == 5
    assert python_error(bundle, backend=backend).exit_code == 5


def test_a_size_that_no_engine_takes_is_refused(cpp: CppLibrary, bundle: Bundle) -> None:
    store = EngineStore(bundle.path)
    store.prune(lambda entry: entry.facts["qualification"]["golden"] is None)
    picture = picture_of((9, 9))
    with closing(Upscaler.open(bundle, backend="inductor", self_test=False)) as python:
        with pytest.raises(FlowsrError, match="no engine takes 9x9 to 18x18") as due:
            python.upscale(picture, 2)
        with (
            cpp.open(bundle.path, backend="inductor", no_self_test=1) as upscaler,
            pytest.raises(CppError, match="no engine takes 9x9 to 18x18") as error,
        ):
            upscaler.upscale(picture, scale_rows="2")
    assert (error.value.code, str(error.value)) == (due.value.exit_code, str(due.value))


def test_a_gpu_that_pytorch_has_not_is_refused_in_the_same_words(
    cpp: CppLibrary, built: Bundle
) -> None:
    with pytest.raises(CppError, match="cuda:7 is not usable: PyTorch") as error:
        cpp.open(built.path, backend="inductor", provider="cuda", device=7)
    due = python_error(built, backend="inductor", provider="cuda", device=7)
    assert (error.value.code, str(error.value)) == (due.exit_code, str(due))
    with pytest.raises(CppError, match="cuda:7 is not usable: PyTorch"):
        cpp.open(built.path, backend="inductor", device=7)


def test_a_setting_that_inductor_has_not_is_refused(cpp: CppLibrary, built: Bundle) -> None:
    with pytest.raises(CppError, match="provider must be cpu or cuda with inductor, got x"):
        cpp.open(built.path, backend="inductor", provider="x")


def test_threads_of_a_caller_share_an_engine(cpp: CppLibrary, built: Bundle) -> None:
    picture = picture_of(SIZE.lr)
    with cpp.open(built.path, backend="inductor", threads=1) as upscaler:
        due = upscaler.upscale(picture, scale_rows="3")
        with ThreadPoolExecutor(6) as pool:
            runs = [pool.submit(upscaler.upscale, picture, scale_rows="3") for _ in range(12)]
            results = [run.result() for run in runs]
    assert all(np.array_equal(result, due) for result in results)


def test_the_command_says_what_runs_and_what_was_passed_over(
    cpp: CppLibrary, built: Bundle, tmp_path: Path
) -> None:
    Image.fromarray(picture_of(SIZE.lr)).save(tmp_path / "in.png")
    words = [built.path, tmp_path / "in.png", tmp_path / "out.png", "--scale", "3", "--force"]
    done = cpp.run("flowsr-upscale", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("60x72  inductor cpu, fp32\n")
    (tmp_path / "libflowsr_inductor.so").write_text("no library")
    broken, reason = (
        {"LD_LIBRARY_PATH": str(tmp_path)},
        "libflowsr_inductor.so cannot be loaded",
    )
    done = cpp.run("flowsr-upscale", *words, **broken)
    assert done.returncode == 0
    assert f"passed over inductor cpu, fp32: {reason}" in done.stderr
    assert done.stdout.endswith("60x72  onnxruntime cpu, fp32\n")
    done = cpp.run("flowsr-upscale", *words, "--backend", "inductor", **broken)
    assert done.returncode == 4
    assert reason in done.stderr


def test_pytorch_is_loaded_for_an_engine_alone(cpp: CppLibrary, exported: Exported) -> None:
    program = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "handle = ctypes.c_void_p()\n"
        "code = library.flowsr_open(sys.argv[2].encode(), None, ctypes.byref(handle))\n"
        "assert code == 0, code\n"
        "print('torch' in open('/proc/self/maps').read())\n"
    )
    library = str(cpp.folder / "libflowsr.so")
    words = [sys.executable, "-c", program, library, str(exported.bundle)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
