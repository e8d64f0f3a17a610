"""A small bundle, pictures, and what a calibration of it gives, for the tests."""

from pathlib import Path

import pytest
from PIL import Image

from flowsr_export.calibration.gates import Budget
from flowsr_export.calibration.run import Calibration, CalibrationConfig, calibrate
from flowsr_runtime import Bundle, write_bundle
from tests.flowsr_calibration.graphs import network, photograph, small_manifest

__all__ = ["calibrated", "made_bundle", "photographs_in", "config_for"]


def made_bundle(place: Path) -> Bundle:
    """Write the bundle of a network that doubles a picture."""
    files = {"model.fp32.onnx": network().SerializeToString()}
    return write_bundle(place, small_manifest(), files)


def photographs_in(folder: Path, count: int = 6) -> Path:
    """Write pictures with structure."""
    folder.mkdir()
    for seed in range(count):
        Image.fromarray(photograph(seed, 40)).save(folder / f"{seed}.png")
    return folder


def config_for(folder: Path, **changes: object) -> CalibrationConfig:
    """Return a small config that a network of random weights can fulfil."""
    usual = {
        "images": folder / "photos",
        "work": folder / "work",
        "samples": 6,
        "side": 16,
        "threads": 1,
        "budget": Budget(30.0),
    }
    return CalibrationConfig(**{**usual, **changes})  # type: ignore[arg-type]  # a test names its own


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Calibration]:
    """The small bundle and its calibration."""
    folder = tmp_path_factory.mktemp("calibrated")
    photographs_in(folder / "photos")
    bundle = made_bundle(folder / "small.bundle")
    return bundle, calibrate(bundle, config_for(folder))
