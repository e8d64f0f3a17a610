import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import Result
from PIL import Image

from flowsr_export.export_onnx import model as build
from flowsr_lp import prior_from_spec, save_weights
from flowsr_runtime import Bundle, Upscaler, output_size
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from tests.flowsr_export.conftest import Exported
from tests.flowsr_export.networks import small, small_model
from tests.stand_in import picture

Run = Callable[..., Result]
# Blending adds nothing to the seam: this is rounding on both sides of one eight-bit step.
ONE_STEP = 1


def test_an_export_says_how_well_it_agrees_with_pytorch(exported: Exported) -> None:
    assert exported.result.exit_code == 0, exported.result.output
    assert "agrees with PyTorch in 6 cases" in exported.result.output


def test_a_bundle_says_what_it_was_made_of_and_how(exported: Exported) -> None:
    raw = Bundle.open(exported.bundle).manifest.raw
    assert raw["model"]["config"]["model"]["args"]["hidden_dim"] == 8
    assert raw["verification"]["max_abs"] <= 1e-4
    assert raw["verification"]["psnr"] > 80
    assert raw["files"]["model.fp32.onnx"]["opset"] == 18
    assert raw["files"]["model.fp32.onnx"]["multiply_adds"]["per_patch"] > 0
    assert len(raw["condition_numbers"]) == 3


def test_the_graph_names_its_axes_and_stands_alone(exported: Exported) -> None:
    model = onnx.load(exported.bundle / "model.fp32.onnx", load_external_data=False)
    (rgb, geometry), (output,) = model.graph.input, model.graph.output
    axes = [dim.dim_param or dim.dim_value for dim in rgb.type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "h", "w"]
    assert [dim.dim_value for dim in geometry.type.tensor_type.shape.dim] == [10]
    assert output.name == "output"
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata.keys() == {
        *("scale", "range", "color_order", "layout", "tile_align", "tile_multiple"),
        "flowsr-lp",
    }
    assert (metadata["scale"], metadata["color_order"]) == ("any", "RGB")


def test_size_fixed_graphs_are_added_to_a_bundle_and_used(
    exported: Exported, run: Run, tmp_path: Path
) -> None:
    bundle = tmp_path / "sizes.bundle"
    checkpoints = ("--model", exported.model, "--prior", exported.prior)
    sizes = ("--scale", "4", "--lr-size", "20x12")
    done = run("export-onnx", *checkpoints, "-o", bundle, *sizes)
    assert done.exit_code == 0, done.output
    assert "model.fp32.x4.20x12.onnx" in done.output
    added = ("--bundle", bundle, "--scale", "4", "--lr-size", "9x8", "--batch", "2", "--json")
    done = run("export-onnx", *checkpoints, *added)
    assert done.exit_code == 0, done.output
    graphs = Bundle.open(bundle).manifest.graphs
    assert [(one.lr, one.batch, one.size) for one in graphs] == [
        ((12, 20), 1, (48, 80)),
        ((8, 9), 2, (32, 36)),
    ]
    again = run("export-onnx", *checkpoints, *added)
    assert again.exit_code == 1
    assert "holds model.fp32.x4.9x8.b2.onnx already" in again.stderr
    rgb = np.asarray(picture(12, 20) / 255, np.float32)
    with (
        Upscaler.open(bundle, threads=1) as fixed,
        Upscaler.open(exported.bundle, threads=1) as free,
    ):
        output = fixed.upscale(rgb, 4, clamp=False)
        expected = free.upscale(rgb, 4, clamp=False)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_the_golden_pair_of_a_bundle_is_what_its_graph_gives(exported: Exported) -> None:
    golden = exported.bundle / "golden"
    case = json.loads((golden / "case.json").read_text())
    with Image.open(golden / case["input"]) as image:
        rgb = np.asarray(np.asarray(image) / 255, np.float32)
    with Upscaler.open(exported.bundle, threads=1) as upscaler:
        output = upscaler.upscale(rgb, size=tuple(case["size"]), clamp=False)
    expected = np.load(golden / case["output"]).transpose(1, 2, 0)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", ["2", "1.6"])
def test_tiles_of_an_exported_model_are_its_whole_picture(
    exported: Exported, scale: str
) -> None:
    rgb = picture(200, 190)
    with Upscaler.open(exported.bundle, threads=1) as whole:
        expected = whole.upscale(rgb, scale)
    with Upscaler.open(exported.bundle, threads=1, memory_budget=27_000_000) as tiled:
        assert len(tiled.plan((200, 190), scale)) > 1
        output = tiled.upscale(rgb, scale)
    assert output.shape == (output_size(200, scale), output_size(190, scale), 3)
    assert np.abs(output.astype(int) - expected).max() <= ONE_STEP


def test_the_same_export_gives_the_same_graph(exported: Exported, tmp_path: Path) -> None:
    from flowsr_export.deployment.families import deployment_of
    from flowsr_export.export_onnx.exporter import onnx_from_deployment
    from flowsr_lp import load_checkpoint

    network = load_checkpoint(exported.model, exported.prior).network
    model = onnx_from_deployment(deployment_of(network))
    stored = onnx.load(exported.bundle / "model.fp32.onnx")
    assert [n.op_type for n in model.graph.node] == [n.op_type for n in stored.graph.node]
    assert model.graph.initializer == stored.graph.initializer


def test_a_graph_of_one_scale_without_a_prior_takes_picture_and_latent(
    exported: Exported, run: Run, tmp_path: Path
) -> None:
    bundle = tmp_path / "fixed.bundle"
    done = run("export-onnx", "--model", exported.model, "-o", bundle, "--scale", "2.7")
    assert done.exit_code == 0, done.output
    assert OnnxRuntimeSession.open(Bundle.open(bundle), threads=1).inputs == {"input", "latent"}
    with Upscaler.open(bundle, threads=1) as upscaler:
        output = upscaler.upscale(picture(10, 13), "2.7", temperature=0.5)
    assert output.shape == (27, 35, 3)


def test_the_guard_is_in_the_manifest(exported: Exported, run: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "guarded.bundle"
    done = run("export-onnx", "--model", exported.model, "-o", bundle, "--guard")
    assert done.exit_code == 0, done.output
    assert Bundle.open(bundle).manifest.raw["guard"] is True


def test_half_precision_is_in_the_file(exported: Exported, run: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "half.bundle"
    arguments = ("--model", exported.model, "--prior", exported.prior, "--precision", "fp16")
    done = run("export-onnx", *arguments, "-o", bundle, "--json")
    assert done.exit_code == 0, done.output
    verification = json.loads(done.stdout)["manifest"]["verification"]
    assert verification["backend"] == "onnxruntime cpu"
    assert verification["rounding"]["backend"] == "PyTorch float16 graph cpu"
    assert verification["rounding"]["psnr"] >= 50
    model = onnx.load(bundle / "model.fp16.onnx")
    weights = {t.name: t.data_type for t in model.graph.initializer}
    convolved = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
    assert {weights[name] for name in convolved} == {onnx.TensorProto.FLOAT16}


def test_an_export_that_differs_from_pytorch_is_not_kept(
    exported: Exported, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = onnx.load(exported.bundle / "model.fp32.onnx")
    weight = next(t for t in stored.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    monkeypatch.setattr(build, "onnx_from_deployment", lambda *_: stored)
    bundle = tmp_path / "wrong.bundle"
    done = run(
        "export-onnx", "--model", exported.model, "--prior", exported.prior, "-o", bundle
    )
    assert done.exit_code == 3
    assert "differs from PyTorch" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_the_old_bundle(
    exported: Exported, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = (exported.bundle / "bundle.json").read_bytes()
    monkeypatch.setattr(build, "onnx_from_deployment", interrupt)
    arguments = ("--model", exported.model, "--prior", exported.prior, "--force")
    done = run("export-onnx", *arguments, "-o", exported.bundle)
    assert done.exit_code == 130
    assert (exported.bundle / "bundle.json").read_bytes() == before
    assert [p.name for p in exported.bundle.parent.glob("*part*")] == []


BAD = {
    "a missing checkpoint": (["--model", "missing.pth"], 5, "model missing.pth does not exist"),
    "a prior alone": (["--prior", "prior.pth"], 2, "--prior needs --model"),
    "a scale below one": (["--scale", "0.5"], 2, "scale must be at least 1, got 0.5"),
    "a scale that is no number": (["--scale", "nan"], 2, "scale must be a finite number"),
    "an opset of no use": (["--opset", "20"], 2, "20 is not in the range"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_one_line(what: str, run: Run, tmp_path: Path) -> None:
    arguments, code, line = BAD[what]
    done = run("export-onnx", "-o", tmp_path / "x.bundle", *arguments)
    assert done.exit_code == code
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.bundle").exists()


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


NARROW = {"name": "unet", "args": {"in_chans": 3, "depth": 1, "dim": 4}}
UNKNOWN = small_model(encoder_spec={"name": "liif", "args": {}})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good and bad checkpoints in the current folder."""
    monkeypatch.chdir(tmp_path)
    weights = small().linf.state_dict()
    Path("empty.pth").touch()
    Image.new("RGB", (8, 8)).save("picture.pth", "PNG")
    torch.save({"model": Code()}, "code.pth")
    torch.save({"model": {**UNKNOWN, "sd": weights}}, "unknown.pth")
    save_weights(Path("good.safetensors"), "model", small_model(), weights)
    narrow = prior_from_spec(NARROW).state_dict()
    save_weights(Path("narrow.safetensors"), "prior", NARROW, narrow)


BAD_FILES = {
    "an empty file": ("empty.pth", "model empty.pth is empty (0 bytes)"),
    "a picture": ("picture.pth", "model picture.pth is not a PyTorch checkpoint"),
    "code": ("code.pth", "code.pth is refused: it holds more than tensors and could run code"),
    "an unknown encoder": (
        "unknown.pth",
        "encoder must be one of edsr-baseline, edsr, rdn, rrd",
    ),
    "another prior": (
        "good.safetensors --prior narrow.safetensors",
        "prior narrow.safetensors is for latents 3 wide, the model good.safetensors has 27",
    ),
    "a prior for a model": (
        "narrow.safetensors",
        "narrow.safetensors holds a prior, not a model",
    ),
}


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_checkpoint_is_one_line(what: str, run: Run) -> None:
    names, line = BAD_FILES[what]
    done = run("export-onnx", "-o", "x.bundle", "--model", *names.split())
    assert (done.exit_code, done.stdout) == (5, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("x.bundle").exists()
    assert not Path("ran").exists()


def test_a_place_that_cannot_be_written_is_named_before_the_work(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = run("export-onnx", "--model", "none.pth", "-o", tmp_path / "file" / "x.bundle")
    assert done.exit_code == 1
    assert "x.bundle cannot be written: " in done.stderr
    assert done.stderr.count("\n") == 1
