"""Engines of eight-bit graphs, built by the real tensorrt_rtx, which needs no GPU."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from flowsr_export.calibration.bundle import write_calibrated
from flowsr_export.calibration.gates import Budget
from flowsr_export.calibration.run import calibrate
from flowsr_export.engine.build import EngineRequest, SizeSpec
from flowsr_export.engine.builder import Settings
from flowsr_export.engine.library import Library
from tests.flowsr_export.calibration.calibrations import config_for, made_bundle, photographs_in
from tests.flowsr_export.engine.engines import make_engine

ADA = Settings(compute_capabilities=("8.9",))
SMALL = SizeSpec(pictures=((24, 24),))


@pytest.fixture(scope="module")
def rtx() -> Library:
    module = importlib.import_module("tensorrt_rtx")
    return Library(module, "tensorrt_rtx", module.__version__)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_calibrated_file_builds_and_its_engine_multiplies_eight_bits(
    kind: Any, tmp_path: Path, rtx: Library
) -> None:
    photographs_in(tmp_path / "photos")
    source = made_bundle(tmp_path / "b")
    done = calibrate(source, config_for(tmp_path, type=kind, budget=Budget(20.0)))
    bundle = write_calibrated(source, source.path, done)
    result = make_engine(bundle, rtx, EngineRequest(kind, SMALL, ADA))
    audit = result.entry.facts["precision"]
    assert audit["least"] > 0.9
    assert audit["engine"][kind] == pytest.approx(audit["onnx"][kind])
