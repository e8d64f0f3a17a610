"""A small bundle to drive the commands with: its graph is plain linear interpolation."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file

from flowsr_export.cli import main
from flowsr_lp import save_weights
from flowsr_runtime import write_bundle
from tests.flowsr_export.networks import small, small_model, small_prior
from tests.stand_in import picture


def resizing_graph() -> bytes:
    """Return an ONNX file with the inputs of a bundle's graph that resizes linearly."""
    constants = {"begin": [8], "end": [10], "batch": [1, 3]}
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["geometry", "begin", "end"], ["window"]),
            helper.make_node("Concat", ["batch", "window"], ["sizes"], axis=0),
            helper.make_node("Resize", ["input", "", "", "sizes"], ["output"], mode="linear"),
        ],
        "resize",
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"]),
            helper.make_tensor_value_info("geometry", TensorProto.INT64, [10]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


def fourfold_graph(gain: float = 1.0) -> bytes:
    """Return an ONNX file like SRFlow's outwardly: fourfold, and `gain` times as bright."""
    factors = np.array([1, 1, 4, 4], dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Resize", ["input", "", "factors"], ["large"], mode="nearest"),
            helper.make_node("Mul", ["large", "gain"], ["output"]),
        ],
        "fourfold",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [
            numpy_helper.from_array(factors, "factors"),
            numpy_helper.from_array(np.float32(gain), "gain"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


def fourfold_manifest() -> dict[str, Any]:
    """Return a manifest for `fourfold_graph`."""
    tiling = {"patch": 8, "align": 64, "lr_align": 16, "ratio": 4, "whole_only": False}
    halos = {"halo_patches": 0, "halo_pixels": 16, "exact_patches": 0, "exact_pixels": 32}
    return small_manifest(
        family="srflow-lp",
        scale={"kind": "fixed", "value": "4"},
        picture={"colour": "RGB", "range": [0.0, 1.0], "layout": "NCHW", "multiple": 2},
        graph={"geometry": False},
        tiling={**tiling, **halos, "seam_steps": 0.5},
    )


def small_manifest(**changes: Any) -> dict[str, Any]:
    """Return a manifest for `resizing_graph`."""
    tiling = {"patch": 3, "align": 12, "lr_align": 3, "ratio": None, "seam_steps": None}
    halos = {"halo_patches": 4, "halo_pixels": 3, "exact_patches": 8, "exact_pixels": 6}
    return {
        "schema": 1,
        "family": "linf-lp",
        "tool": {"flowsr": "0.1.0"},
        "model": {"config": {"width": 8}, "licence": "Apache-2.0"},
        "scale": {"kind": "any"},
        "border": "extend",
        "picture": {"colour": "RGB", "range": [0.0, 1.0], "layout": "NCHW", "multiple": 1},
        "graph": {"geometry": True},
        "latents": [],
        "tiling": {**tiling, **halos, "whole_only": False},
        "memory": {"base_bytes": 0, "bytes_per_pixel": 64, "bytes_per_patch": 64},
        "condition_numbers": [1.5, 12.25],
        "files": {"model.fp32.onnx": {"precision": "fp32", "opset": 18, "islands": []}},
        "verification": {"psnr": 99.5},
        **changes,
    }


def black_pair(factor: int) -> dict[str, bytes]:
    """Return a golden pair of 4x4 pixels: every graph here keeps black as it is."""
    picture, array = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    np.save(array, np.zeros((3, 4 * factor, 4 * factor), dtype=np.float32))
    case = {"input": "input.png", "output": "output.npy", "size": [4 * factor] * 2}
    return {
        "golden/input.png": picture.getvalue(),
        "golden/output.npy": array.getvalue(),
        "golden/case.json": json.dumps(case).encode(),
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that works."""
    files = {"model.fp32.onnx": resizing_graph(), **black_pair(2)}
    return write_bundle(tmp_path / "bundle", small_manifest(), files).path


@pytest.fixture
def fourfold(tmp_path: Path) -> Path:
    """A bundle of one scale that works."""
    files = {"model.fp32.onnx": fourfold_graph(), **black_pair(4)}
    return write_bundle(tmp_path / "fourfold", fourfold_manifest(), files).path


@pytest.fixture
def exploding(tmp_path: Path) -> Path:
    """A bundle whose pictures are nine times as bright as they should be."""
    files = {"model.fp32.onnx": fourfold_graph(gain=9.0), **black_pair(4)}
    return write_bundle(tmp_path / "exploding", fourfold_manifest(), files).path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of 6 columns and 5 rows."""
    pixels = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of three pictures, 24 x 24."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for salt in "abc":
        Image.fromarray(picture(24, 24, salt)).save(folder / f"{salt}.png")
    return folder


@pytest.fixture
def vgg(tmp_path: Path) -> Path:
    """The first layers of a narrow VGG."""
    shapes = {"conv1_1": (4, 3), "conv1_2": (4, 4), "conv2_1": (4, 4)}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(*shape, 3, 3, generator=generator)
        tensors[f"{name}.bias"] = torch.zeros(shape[0])
    save_file(tensors, tmp_path / "vgg.safetensors")
    return tmp_path / "vgg.safetensors"


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run `flowsr-export` in this process, with some arguments."""

    def run_main(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run_main


@dataclass(frozen=True)
class Exported:
    """A bundle of a small stand-in network, made by the command, and its checkpoints."""

    bundle: Path
    model: Path
    prior: Path
    result: Result


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The any-scale fp32 bundle; an export takes ten seconds, so there is one for all."""
    folder = tmp_path_factory.mktemp("exported")
    net = small()
    assert net.prior is not None
    model, prior = folder / "model.safetensors", folder / "prior.safetensors"
    save_weights(model, "model", small_model(), net.linf.state_dict())
    save_weights(prior, "prior", small_prior(), net.prior.state_dict())
    bundle = folder / "exported.bundle"
    arguments = ["export-onnx", "--model", model, "--prior", prior, "-o", bundle]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return Exported(bundle, model, prior, result)
