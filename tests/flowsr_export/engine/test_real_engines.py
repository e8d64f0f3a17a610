"""Engines of the built-in model, built by the real tensorrt_rtx, which needs no GPU."""

import importlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from flowsr_export.calibration.bundle import write_calibrated
from flowsr_export.calibration.gates import Budget
from flowsr_export.calibration.run import calibrate
from flowsr_export.engine.build import (
    EngineRequest,
    EngineResult,
    LayerFiles,
    SizeSpec,
    build_engine,
    plan_engine,
)
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.library import Library, load_library
from flowsr_export.engine.qualification import loads_here
from flowsr_export.engine.target_bundle import TargetBundle
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import EngineStore
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import BackendError, ProviderError
from tests.flowsr_export.calibration.calibrations import config_for, made_bundle, photographs_in
from tests.flowsr_export.engine.engines import (
    convolving_bundle,
    make_engine,
    with_golden_pair,
)

pytestmark = pytest.mark.slow

GIGABYTE = 10**9
ROOMY = 16 << 30  # bytes: no picture here is cut
FULL_HD = SizeSpec(outputs=((1080, 1920),), scales=("4",), memory_budget=ROOMY)
SMALL = SizeSpec(pictures=((64, 64),), memory_budget=ROOMY)
SEVERAL = SizeSpec(pictures=((32, 32), (64, 48)), scales=("2", "3"), memory_budget=ROOMY)


@pytest.fixture(scope="module")
def rtx() -> Library:
    module = importlib.import_module("tensorrt_rtx")
    return Library(module, "tensorrt_rtx", module.__version__)


@pytest.fixture(scope="module")
def any_scale(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped bundle, with a float16 graph beside the float32 one."""
    return TargetBundle(output=tmp_path_factory.mktemp("any") / "b").prepare("fp16")


@pytest.fixture(scope="module")
def times_four(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped model's float16 graph whose only input is the picture."""
    place: Path = tmp_path_factory.mktemp("fixed") / "b"
    return TargetBundle(output=place, fixed_scale=Fraction(4)).prepare("fp16")


def check_sound(result: EngineResult, bundle: Bundle) -> None:
    """An engine that is kept, computes in its precision and says what memory it takes."""
    assert result.built is not None
    shares = result.entry.facts["precision"]["engine"]
    assert "unknown" not in shares
    assert shares[result.entry.key.precision] >= 0.95
    assert len(result.built.scratch) == len(result.entry.key.profiles)
    assert EngineStore(bundle.path).read(result.entry) == result.built.plan


@pytest.mark.parametrize("capability", ["7.5", "8.6", "8.9", "12.0", None])
def test_the_graph_of_one_scale_builds_for_every_gpu(
    capability: str | None, times_four: Bundle, rtx: Library
) -> None:
    settings = Settings(compute_capabilities=(capability,) if capability else ())
    result = make_engine(times_four, rtx, EngineRequest("fp16", SMALL, settings))
    check_sound(result, times_four)
    assert result.entry.key.compute_capability == settings.compute_capabilities
    assert set(result.entry.key.profiles[0]) == {"input"}


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("capabilities", [("7.5",), ("8.6", "8.9", "12.0")])
def test_the_graph_of_any_scale_builds_for_every_gpu(
    precision: str, capabilities: tuple[str, ...], any_scale: Bundle, rtx: Library
) -> None:
    settings = Settings(compute_capabilities=capabilities)
    result = make_engine(any_scale, rtx, EngineRequest(precision, SEVERAL, settings))
    check_sound(result, any_scale)


def test_full_hd_takes_less_than_one_and_a_half_gigabytes(
    any_scale: Bundle, rtx: Library
) -> None:
    result = make_engine(any_scale, rtx, EngineRequest("fp16", FULL_HD, Settings()))
    check_sound(result, any_scale)
    assert result.built is not None
    assert result.built.scratch[0] < 1.5 * GIGABYTE


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_calibrated_file_builds_and_its_engine_multiplies_eight_bits(
    kind: Any, tmp_path: Path, rtx: Library
) -> None:
    photographs_in(tmp_path / "photos")
    source = made_bundle(tmp_path / "b")
    done = calibrate(source, config_for(tmp_path, type=kind, budget=Budget(20.0)))
    bundle = write_calibrated(source, source.path, done)
    sizes, settings = SizeSpec(pictures=((24, 24),)), Settings(compute_capabilities=("8.9",))
    result = make_engine(bundle, rtx, EngineRequest(kind, sizes, settings))
    audit = result.entry.facts["precision"]
    assert audit["least"] > 0.9
    assert audit["engine"][kind] == pytest.approx(audit["onnx"][kind])


@pytest.mark.gpu
def test_an_engine_of_this_gpu_runs_before_it_is_stored(gpu: Device, tmp_path: Path) -> None:
    sizes = SizeSpec(pictures=((32, 48),), scales=("2",))
    request = EngineRequest("fp32", sizes, Settings())
    plain = Bundle.open(convolving_bundle(tmp_path / "plain", "fp32"))
    bundle = with_golden_pair(tmp_path / "golden", plain)
    try:
        chosen = load_library("auto", gpu)
        plan = plan_engine(bundle.manifest, bundle, chosen, request, gpu)
    except (BackendError, ProviderError) as error:
        pytest.skip(f"needs a TensorRT that builds for {gpu.name}: {error}")
    if plan.key is None or not loads_here(plan.key, chosen, gpu):
        pytest.skip(f"{chosen} builds no engine for {gpu.compute_capability}")
    files = LayerFiles(tmp_path / "layers.json", tmp_path / "profile.json")
    facts = build_engine(bundle, plan, files=files).entry.facts
    assert facts["qualified"] is True
    assert facts["qualification"]["golden"]["max_abs"] < 1e-4
    assert len(json.loads((tmp_path / "profile.json").read_text())) > 1
