"""The OpenVINO backend in C++, if the Python package is installed."""

from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from flowsr_runtime import Upscaler, embedded_bundle, read_picture
from flowsr_runtime.bundle.directory import Bundle
from tests.flowsr_runtime.cpp.library import ROOT, CppError, CppLibrary, build, load

# Two libraries sum in another order; the worst that is seen is in docs/guides/cpp.md.
BAR: Final = 1e-4
PHOTO: Final = ROOT / "export" / "flowsr_export" / "inputs" / "pictures" / "coffee_256.png"


@pytest.fixture(scope="module")
def openvino(tmp_path_factory: pytest.TempPathFactory) -> CppLibrary:
    """The library with backend openvino alone."""
    spec = find_spec("openvino")
    if spec is None or spec.origin is None:
        pytest.skip("openvino is not installed; pip install openvino")
    cmake = Path(spec.origin).parent / "cmake"
    without = ("-DFLOWSR_ONNXRUNTIME=OFF", "-DFLOWSR_TOOLS=OFF", "-DFLOWSR_INDUCTOR=OFF")
    options = (*without, "-DFLOWSR_OPENVINO=ON")
    folder = tmp_path_factory.mktemp("openvino")
    return load(build(folder, *options, f"-DOpenVINO_DIR={cmake}"))


@pytest.mark.parametrize("scale", [("4", "4"), ("2.7", "3.6")])
def test_a_photograph_is_enlarged_as_by_onnx_runtime(
    openvino: CppLibrary, scale: tuple[str, str]
) -> None:
    image = read_picture(PHOTO).rgb[100:148, 60:116]
    pixels = image.astype(np.float32) / np.float32(255)
    factors = {"scale_rows": scale[0], "scale_columns": scale[1]}
    with Upscaler.open() as python, openvino.open(embedded_bundle()) as other:
        due = python.upscale(pixels, scale, clamp=False)
        got = other.upscale(pixels, **factors, unclamped=1)
        steps = python.upscale(image, scale).astype(int) - other.upscale(image, **factors)
    assert np.abs(due - got).max() <= BAR
    assert np.abs(steps).max() <= 1


def test_it_equals_openvino_in_python(openvino: CppLibrary) -> None:
    pixels = read_picture(PHOTO).rgb[100:148, 60:116].astype(np.float32) / np.float32(255)
    with (
        Upscaler.open(backend="openvino") as python,
        openvino.open(embedded_bundle()) as other,
    ):
        due = python.upscale(pixels, 2, clamp=False)
        got = other.upscale(pixels, scale_rows="2", unclamped=1)
        assert other.untested == ""
    np.testing.assert_array_equal(got, due)


def test_bfloat16_is_a_hint_for_the_float32_graph(openvino: CppLibrary) -> None:
    core = pytest.importorskip("openvino").Core()
    pixels = read_picture(PHOTO).rgb[100:132, 60:92].astype(np.float32) / np.float32(255)
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(CppError, match="precision bf16 needs a CPU with AVX512_BF16"):
            openvino.open(embedded_bundle(), precision="bf16")
        return
    with (
        openvino.open(embedded_bundle(), precision="bf16") as half,
        openvino.open(embedded_bundle()) as single,
    ):
        results = [one.upscale(pixels, scale_rows="2", unclamped=1) for one in (half, single)]
    assert 1e-5 < np.abs(results[0] - results[1]).max() < 0.05


def test_a_geometry_beyond_32_bits_is_refused(openvino: CppLibrary, bundle: Bundle) -> None:
    column = np.zeros((30_000, 1, 3), dtype=np.uint8)
    with (
        openvino.open(bundle.path, memory_budget=300_000) as upscaler,
        pytest.raises(CppError, match="openvino computes geometry in 32 bits") as error,
    ):
        upscaler.upscale(column, height=60_000, width=1)
    assert error.value.code == 2


def test_settings_that_openvino_has_not_are_refused(
    openvino: CppLibrary, bundle: Bundle
) -> None:
    with pytest.raises(CppError, match="provider must be cpu with openvino, got cuda"):
        openvino.open(bundle.path, provider="cuda")
    with pytest.raises(CppError, match="device must be 0 with openvino, got 1"):
        openvino.open(bundle.path, device=1)
