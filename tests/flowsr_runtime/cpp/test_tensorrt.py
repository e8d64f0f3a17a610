"""The TensorRT backend in C++, compiled against stand-ins of the headers."""

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import EngineKey, EngineStore, Range
from tests.flowsr_runtime.bundle.engine_keys import key as any_key
from tests.flowsr_runtime.conftest import BILINEAR
from tests.flowsr_runtime.cpp.library import ROOT, SOURCE, CppError, CppLibrary, Warn, load
from tests.flowsr_runtime.golden import golden_bundle

PLAN: Final = b"nearest"
"""Plan of the only kind of engine in tests/doubles/cpp/NvInfer.h."""

FLAGS: Final = ("-std=c++17", "-O0", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC")
SOURCES: Final = {
    "backends": ("backends", "golden", "self_test", "session", "verdicts"),
    "bundle": ("bundle", "json", "manifest", "onnx_file", "sha256"),
    "engines": ("engines", "tensorrt_session"),
    "machine": ("machine",),
    "upscaling": ("flowsr_c", "geometry", "noise", "pixels", "tiling", "upscaler"),
}
DEFINITIONS: Final = ('-DFLOWSR_VERSION="0.1.0"', '-DFLOWSR_WITH_TENSORRT="tensorrt"')


@pytest.fixture(scope="module")
def tensorrt(tmp_path_factory: pytest.TempPathFactory) -> CppLibrary:
    """The library with backend tensorrt alone."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("tensorrt")
    includes = [SOURCE / "include", SOURCE / "src", ROOT / "tests" / "doubles" / "cpp"]
    command = [compiler, *FLAGS, *DEFINITIONS, *(f"-I{path}" for path in includes)]
    command += ["-shared", "-o", str(folder / "libflowsr.so")]
    sources = [
        str(SOURCE / "src" / folder / f"{name}.cpp")
        for folder, names in SOURCES.items()
        for name in names
    ]
    built = subprocess.run([*command, *sources], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return load(folder)


def key_of(bundle: Bundle, **changes: Any) -> EngineKey:
    """Return the key of an engine that the stand-in's library and device load."""
    most = 64
    picture = Range((1, 3, 4, 4), (1, 3, 24, 24), (1, 3, most, most))
    geometry = Range((1,) * 4 + (0,) * 4 + (1, 1), (64,) * 10, (4096,) * 8 + (96, 96))
    return any_key(
        **{
            "onnx_sha256": bundle.manifest.files["model.fp32.onnx"].sha256,
            "flavour": "tensorrt",
            "version": "11.4.0.106",
            "precision": "fp32",
            "profiles": ({"input": picture, "geometry": geometry},),
            "options": {"workspace": 4 << 30, "tf32": False},
            **changes,
        }
    )


def add_engine(bundle: Bundle, plan: bytes = PLAN, **changes: Any) -> str:
    store, note = EngineStore(bundle.path), "é \u2028 \U0001d6fc \x7f \n \\"
    facts = {"driver": "580.82", "build_seconds": 1.5e-05, "note": note, "list": [], "map": {}}
    return store.add(key_of(bundle, **changes), plan, facts).name


def nearest(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    rows = (2 * np.arange(height) + 1) * image.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * image.shape[1] // (2 * width)
    result: NDArray[np.uint8] = image[rows][:, columns]
    return result


def test_an_engine_enlarges_whole_pictures_and_tiles(
    tensorrt: CppLibrary, bundle: Bundle, photo: NDArray[np.uint8]
) -> None:
    add_engine(bundle)
    large = np.tile(photo, (3, 3, 1))
    with tensorrt.open(bundle.path, exact_halo=1) as upscaler:
        whole = upscaler.upscale(photo, scale_rows="2.7")
        tiled = upscaler.upscale(large, scale_rows="3", scale_columns="4")
    np.testing.assert_array_equal(whole, nearest(photo, 62, 84))
    np.testing.assert_array_equal(tiled, nearest(large, 207, 372))


def test_an_engine_that_computes_something_else_is_refused(
    tensorrt: CppLibrary, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    bundle = golden_bundle(tmp_path / "golden", manifest, BILINEAR)
    add_engine(bundle)
    with pytest.raises(CppError, match=r"tensorrt cuda .* misses the golden pair .* max error"):
        tensorrt.open(bundle.path)
    with tensorrt.open(bundle.path, no_self_test=1) as upscaler:
        assert upscaler.untested == "the self-test was switched off"


def test_an_engine_that_takes_no_part_of_the_golden_picture_says_so(
    tensorrt: CppLibrary, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    bundle = golden_bundle(tmp_path / "golden", manifest, BILINEAR)
    (taken,) = key_of(bundle).profiles
    large = Range((1, 3, 60, 60), (1, 3, 62, 62), (1, 3, 64, 64))
    add_engine(bundle, profiles=({**taken, "input": large},))
    with tensorrt.open(bundle.path) as upscaler:
        assert upscaler.untested == "no profile takes the golden picture or tiles of it"


def test_a_library_of_one_backend_names_it(tensorrt: CppLibrary) -> None:
    assert tensorrt.native.flowsr_backends() == b"tensorrt"


def test_a_backend_that_was_not_built_says_what_to_do(
    tensorrt: CppLibrary, bundle: Bundle
) -> None:
    with pytest.raises(CppError, match=r"backend inductor; .* -DFLOWSR_TORCH_ROOT") as e:
        tensorrt.open(bundle.path, backend="inductor")
    assert e.value.code == 4


def test_without_an_engine_the_command_that_builds_one_is_named(
    tensorrt: CppLibrary, bundle: Bundle
) -> None:
    with pytest.raises(CppError, match="holds no engine at all"):
        tensorrt.open(bundle.path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("onnx_sha256", "b" * 64, "onnx_sha256 is b+, wanted "),
        ("flavour", "tensorrt_rtx", "flavour is tensorrt_rtx, wanted tensorrt"),
        ("version", "11.3.0.1", r"version is 11\.3\.0\.1, wanted 11\.4\.0\.106"),
        ("compute_capability", ("8.6", "9.0"), r"capability is 8\.6, 9\.0, wanted 8\.9"),
        ("gpu_name", "NVIDIA A10", "gpu_name is NVIDIA A10, wanted NVIDIA L4"),
        ("precision", "fp16", "precision is fp16, wanted fp32"),
    ],
)
def test_the_field_that_does_not_match_is_named(
    tensorrt: CppLibrary, bundle: Bundle, field: str, value: Any, message: str
) -> None:
    add_engine(bundle, **{field: value})
    with pytest.raises(CppError, match=message) as error:
        tensorrt.open(bundle.path)
    assert error.value.code == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"compute_capability": ()},
        {"version": "11.2.0.9", "options": {"version_compatible": True}},
        {"gpu_name": "NVIDIA L4"},
    ],
)
def test_engines_that_the_device_loads_are_found(
    tensorrt: CppLibrary, bundle: Bundle, photo: NDArray[np.uint8], changes: dict[str, Any]
) -> None:
    add_engine(bundle, **changes)
    with tensorrt.open(bundle.path) as upscaler:
        got = upscaler.upscale(photo, scale_rows="2")
    np.testing.assert_array_equal(got, nearest(photo, 46, 62))


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_a_flipped_byte_of_an_engine_is_refused(
    tensorrt: CppLibrary, bundle: Bundle, suffix: str
) -> None:
    path = bundle.path / (add_engine(bundle) + suffix)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CppError, match="is damaged") as error:
        tensorrt.open(bundle.path)
    assert error.value.code == 5


def test_a_description_under_another_name_is_refused(
    tensorrt: CppLibrary, bundle: Bundle
) -> None:
    path = bundle.path / add_engine(bundle)
    for suffix in (".engine", ".engine.json"):
        path.with_suffix(suffix).rename(path.with_name(f"other{suffix}"))
    with pytest.raises(CppError, match="describes another engine"):
        tensorrt.open(bundle.path)


def test_a_plan_that_does_not_load_says_what_the_library_says(
    tensorrt: CppLibrary, bundle: Bundle
) -> None:
    add_engine(bundle, b"something else")
    with pytest.raises(CppError, match=r"failed to load .*: the plan is of another") as error:
        tensorrt.open(bundle.path)
    assert error.value.code == 4


def test_sizes_that_no_profile_takes_name_the_command(
    tensorrt: CppLibrary, bundle: Bundle
) -> None:
    add_engine(bundle)
    with (
        tensorrt.open(bundle.path) as upscaler,
        pytest.raises(CppError, match="2x2 to 3x3") as error,
    ):
        upscaler.upscale(np.zeros((2, 2, 3), dtype=np.uint8), scale_rows="1.5")
    assert error.value.code == 5


def test_without_a_device_the_code_is_4(
    tensorrt: CppLibrary, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWSR_DOUBLE_DEVICES", "0")
    with pytest.raises(CppError, match="there is no CUDA device") as error:
        tensorrt.open(bundle.path)
    assert error.value.code == 4
    monkeypatch.setenv("FLOWSR_DOUBLE_DEVICES", "2")
    with pytest.raises(CppError, match="there is no device 3, only 2"):
        tensorrt.open(bundle.path, device=3)


def test_tiles_are_halved_where_memory_runs_out(
    tensorrt: CppLibrary,
    bundle: Bundle,
    photo: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_engine(bundle)
    told: list[str] = []
    warn = Warn(lambda _, line: told.append(line.decode()))
    monkeypatch.setenv("FLOWSR_DOUBLE_BYTES", str(60 * 60 * 3 * 4))
    with tensorrt.open(bundle.path, exact_halo=1) as upscaler:
        got = upscaler.upscale(photo, scale_rows="3", warn=warn)
    np.testing.assert_array_equal(got, nearest(photo, 69, 93))
    line = "out of memory with tiles of 93x69 output pixels, going on with 24x69 from row 0"
    assert told == [line]
    monkeypatch.setenv("FLOWSR_DOUBLE_BYTES", "9")
    with (
        tensorrt.open(bundle.path) as upscaler,
        pytest.raises(CppError, match=r"out of memory: .*; there are no tiles") as error,
    ):
        upscaler.upscale(photo, scale_rows="3")
    assert error.value.code == 6


def test_settings_of_other_backends_are_refused(tensorrt: CppLibrary, bundle: Bundle) -> None:
    with pytest.raises(CppError, match="provider must be cuda with tensorrt, got cpu"):
        tensorrt.open(bundle.path, provider="cpu")
    with pytest.raises(CppError, match="threads is for onnxruntime and openvino"):
        tensorrt.open(bundle.path, threads=2)
