"""A small network, its bundle, and folders of pictures."""

from pathlib import Path

import pytest
from onnx import ModelProto
from PIL import Image

from flowsr_runtime import Bundle, write_bundle
from tests.flowsr_calibration.graphs import network, photograph, small_manifest


@pytest.fixture
def model() -> ModelProto:
    """The small network."""
    return network()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Its bundle."""
    files = {"model.fp32.onnx": network().SerializeToString()}
    return write_bundle(tmp_path / "small.bundle", small_manifest(), files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six pictures."""
    made = tmp_path / "photos"
    made.mkdir()
    for seed in range(6):
        Image.fromarray(photograph(seed)).save(made / f"{seed}.png")
    return made
