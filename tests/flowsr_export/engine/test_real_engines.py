"""Engines of the built-in model, built by the real tensorrt_rtx, which needs no GPU."""

import importlib
from fractions import Fraction
from pathlib import Path

import pytest

from flowsr_export.engine.build import EngineRequest, EngineResult, SizeSpec
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.library import Library
from flowsr_export.engine.target_bundle import TargetBundle
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import EngineStore
from tests.flowsr_export.engine.engines import make_engine

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
