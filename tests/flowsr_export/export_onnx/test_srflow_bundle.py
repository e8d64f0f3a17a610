"""SRFlow-LP from checkpoints to pictures: with a prior, of a single input, and sampled."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from flowsr_calibration.collect import TensorTap
from flowsr_calibration.crops import CropPlan, feeds_of
from flowsr_calibration.layers import layers_of
from flowsr_calibration.panel import HeldOutSet
from flowsr_calibration.quantize import QuantizationForm, quantize_layers, tensors_of
from flowsr_export.cli import main
from flowsr_export.onnx_graph.lint import lint
from flowsr_lp import SrflowLP, save_weights
from flowsr_runtime import Bundle, IntegrityError, Upscaler
from tests.flowsr_export.networks import (
    small_srflow,
    small_srflow_model,
    small_srflow_prior,
)
from tests.stand_in import picture, srflow_network

Run = Callable[..., Result]
ONE_STEP = 1
# Steps of three levels grow by e³ on their way back: a flow whose inverse explodes.
EXPLODING = 3.0


@dataclass(frozen=True)
class Srflow:
    """A bundle and what it was made of.

    Attributes:
        network: The network.
        files: Options that name its checkpoints.
        bundle: The bundle.
        result: What the export said.
    """

    network: SrflowLP
    files: tuple[Any, ...]
    bundle: Path
    result: Result


def exported(
    folder: Path, network: SrflowLP, *options: str, spec: dict[str, Any] | None = None
) -> Srflow:
    model = folder / "model.safetensors"
    spec = spec or small_srflow_model()
    save_weights(model, "model", spec, network.srflow.state_dict())
    files: tuple[Any, ...] = ("--model", model)
    if network.prior is not None:
        latent_module = folder / "prior.safetensors"
        save_weights(latent_module, "prior", small_srflow_prior(), network.prior.state_dict())
        files = (*files, "--prior", latent_module)
    bundle = folder / "srflow.bundle"
    arguments = ["export-onnx", *files, "-o", bundle, *options]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return Srflow(network, files, bundle, result)


@pytest.fixture(scope="module")
def srflow(tmp_path_factory: pytest.TempPathFactory) -> Srflow:
    """The bundle with a prior, for tiles."""
    return exported(tmp_path_factory.mktemp("srflow"), small_srflow())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Srflow:
    """The bundle of the single input."""
    return exported(tmp_path_factory.mktemp("plain"), small_srflow(), "--scale", "4")


@pytest.fixture(scope="module")
def exploding(tmp_path_factory: pytest.TempPathFactory) -> Srflow:
    """A sampled bundle of eight times whose inverse explodes."""
    spec = small_srflow_model(scale=8, L=4)
    network = srflow_network(spec, None)
    with torch.no_grad():
        network.srflow.flowUpsamplerNet.get_parameter("layers.1.actnorm.logs").sub_(EXPLODING)
    return exported(tmp_path_factory.mktemp("exploding"), network, spec=spec)


def expected(network: SrflowLP, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Enlarge in PyTorch, (H, W, 3)."""
    low = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output: NDArray[np.float32] = network(low).output[0].permute(1, 2, 0).numpy()
    return output


def inputs_of(bundle: Path) -> list[str]:
    model = onnx.load(bundle / "model.fp32.onnx")
    return [value.name for value in model.graph.input]


def test_an_export_says_what_it_holds(srflow: Srflow) -> None:
    assert srflow.result.exit_code == 0, srflow.result.output
    assert "CC BY-NC-SA 4.0, for research only" in srflow.result.output
    raw = Bundle.open(srflow.bundle).manifest.raw
    assert raw["family"] == "srflow-lp"
    assert raw["scale"] == {"kind": "fixed", "value": "4"}
    assert raw["tiling"]["seam_steps"] < ONE_STEP
    assert raw["files"]["model.fp32.onnx"]["multiply_adds"]["per_lr_pixel"] > 0
    assert len(raw["condition_numbers"]) == 3
    assert inputs_of(srflow.bundle) == ["input", "geometry"]


@pytest.mark.parametrize("size", [(1, 1), (9, 14), (16, 31)])
def test_pictures_of_any_size_are_enlarged_as_pytorch_does(
    srflow: Srflow, size: tuple[int, int]
) -> None:
    rgb = picture(*size)
    with Upscaler.open(srflow.bundle, threads=1) as upscaler:
        output = upscaler.upscale((rgb / 255).astype(np.float32), clamp=False)
    np.testing.assert_allclose(output, expected(srflow.network, rgb), rtol=0, atol=5e-4)


def test_tiles_are_the_whole_picture_within_one_step(srflow: Srflow) -> None:
    rgb = picture(150, 170)
    with Upscaler.open(srflow.bundle, threads=1) as upscaler:
        whole = upscaler.upscale(rgb)
    with Upscaler.open(srflow.bundle, threads=1, memory_budget=90_000_000) as upscaler:
        assert len(upscaler.plan((150, 170))) > 1
        tiled = upscaler.upscale(rgb)
    assert np.abs(tiled.astype(int) - whole).max() <= ONE_STEP


def test_exact_tiles_are_the_whole_picture(srflow: Srflow) -> None:
    rgb = (picture(18, 700) / 255).astype(np.float32)
    with Upscaler.open(srflow.bundle, threads=1) as upscaler:
        whole = upscaler.upscale(rgb)
    budget = 60_000_000
    with Upscaler.open(
        srflow.bundle, threads=1, memory_budget=budget, halo="exact"
    ) as upscaler:
        assert len(upscaler.plan((18, 700))) > 1
        np.testing.assert_allclose(upscaler.upscale(rgb), whole, rtol=0, atol=1e-5)


def test_verify_compares_odd_and_even_sizes(srflow: Srflow, run: Run) -> None:
    done = run("verify", srflow.bundle, *srflow.files, "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    cases = report["runs"]["onnxruntime cpu"]
    assert {n % 2 for case in cases for n in case["case"]["lr"]} == {0, 1}
    assert max(case["max_abs"] for case in cases) <= 5e-4
    assert report["round_trip"] <= 1e-4


def test_its_certificate_holds_tiles_and_odd_sizes(
    srflow: Srflow, run: Run, tmp_path: Path
) -> None:
    options = ("--quick", "--threads", 1, "--json", "-o", tmp_path / "made")
    done = run("verify", srflow.bundle, *srflow.files, *options)
    assert done.exit_code == 0, done.output
    checks = json.loads(done.stdout)["checks"]
    assert {c["mode"] for c in checks} == {"whole", "tiles", "exact tiles", "exact seam"}
    assert {n % 2 for c in checks for n in c["lr"]} == {0, 1}


def test_another_scale_is_refused_with_the_remedy(
    srflow: Srflow, run: Run, photo: Path
) -> None:
    target = photo.parent / "large.png"
    done = run("upscale", srflow.bundle, photo, "-o", target, "--scale", 3)
    assert done.exit_code == 2
    assert "only supports scale 4" in done.stderr
    assert "--resample" in done.stderr
    assert not target.exists()


def test_resampling_reaches_any_size(srflow: Srflow, run: Run, photo: Path) -> None:
    target = photo.parent / "large.png"
    size = ("--size", "17x13", "--resample")
    done = run("upscale", srflow.bundle, photo, "-o", target, *size)
    assert done.exit_code == 0, done.output
    with Image.open(target) as image:
        assert image.size == (17, 13)


def test_truncation_is_the_released_scripts(srflow: Srflow) -> None:
    rgb = picture(9, 14)
    with Upscaler.open(srflow.bundle, threads=1) as upscaler:
        exact = upscaler.upscale((rgb / np.float32(255)).astype(np.float32))
        output = upscaler.upscale(rgb, truncate=True)
    np.testing.assert_array_equal(output, (exact * np.float32(255)).astype(np.uint8))


def test_the_plain_graph_takes_the_picture_alone(plain: Srflow) -> None:
    assert plain.result.exit_code == 0, plain.result.output
    assert inputs_of(plain.bundle) == ["input"]
    rgb = picture(9, 14)
    with Upscaler.open(plain.bundle, threads=1) as upscaler:
        output = upscaler.upscale((rgb / 255).astype(np.float32), clamp=False)
    np.testing.assert_allclose(output, expected(plain.network, rgb), rtol=0, atol=5e-4)


def test_a_scale_that_is_not_the_networks_is_refused(
    srflow: Srflow, run: Run, tmp_path: Path
) -> None:
    target = tmp_path / "x.bundle"
    done = run("export-onnx", *srflow.files, "-o", target, "--scale", "3")
    assert done.exit_code == 2
    assert "scale must be 4, the only scale of this network, got 3 (--scale)" in done.stderr
    assert not target.exists()


def test_verify_refuses_a_flow_that_explodes_and_says_where(
    exploding: Srflow, run: Run
) -> None:
    assert exploding.result.exit_code == 0, exploding.result.output
    done = run("verify", exploding.bundle, *exploding.files, "--threads", 1)
    assert done.exit_code == 3
    assert len(done.stderr.splitlines()) == 1
    assert "inverse explodes" in done.stderr
    assert "lie outside [-1, 2], in output rows" in done.stderr


def test_upscale_warns_once_of_a_flow_that_explodes(
    exploding: Srflow, run: Run, photo: Path
) -> None:
    target = photo.parent / "large.png"
    sampled = ("--temperature", 0.8, "--seed", 3)
    done = run("upscale", exploding.bundle, photo, "-o", target, *sampled)
    assert done.exit_code == 0
    runs_on, line = done.stderr.splitlines()
    assert "runs on onnxruntime cpu" in runs_on
    assert "lie outside [-1, 2]" in line
    with Image.open(target) as image:
        assert image.size == (48, 40)


def test_a_sampled_bundle_of_eight_times_takes_three_latents(exploding: Srflow) -> None:
    assert inputs_of(exploding.bundle) == ["input", "latent0", "latent1", "latent2"]


def test_the_tiles_of_a_sampled_bundle_see_the_noise_of_the_whole(exploding: Srflow) -> None:
    rgb = (picture(10, 320) / 255).astype(np.float32)
    sampled: dict[str, Any] = {"temperature": 0.1, "seed": 5, "clamp": False}
    with Upscaler.open(exploding.bundle, threads=1) as upscaler:
        whole = upscaler.upscale(rgb, warn=print, **sampled)
    budget = 60_000_000
    with Upscaler.open(
        exploding.bundle, threads=1, memory_budget=budget, halo="exact"
    ) as upscaler:
        assert len(upscaler.plan((10, 320))) > 1
        tiled = upscaler.upscale(rgb, warn=print, **sampled)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-4)


def test_what_reads_features_alone_is_quantized_and_the_flow_is_not(
    srflow: Srflow, tmp_path: Path
) -> None:
    bundle = Bundle.open(srflow.bundle)
    graph = onnx.load_from_string(bundle.model_bytes())
    found = layers_of(graph)
    convolutions = {node.input[1] for node in graph.graph.node if node.op_type == "Conv"}
    left = convolutions - {layer.weight for layer in found}
    assert {layer.block.split(".")[0] for layer in found} == {"encoder", "levels", "prior"}
    assert {name.split(".")[2] for name in left} == {
        *("forward_maps", "inverse_maps", "steps", "split"),
    }


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_eight_bits_are_close_to_float32(kind: Any, srflow: Srflow, tmp_path: Path) -> None:
    bundle = Bundle.open(srflow.bundle)
    graph = onnx.load_from_string(bundle.model_bytes())
    layers = layers_of(graph)
    Image.fromarray(picture(80, 80, "a")).save(tmp_path / "a.png")
    crops = list(CropPlan(1, 16, (Fraction(4),)).crops([tmp_path / "a.png"]))
    seen = TensorTap(graph, tensors_of(graph, layers), 1).run(
        feeds_of(bundle.manifest, crops[0])
    )
    ranges = {name: float(np.abs(values).max()) for name, values in seen.items()}
    made = quantize_layers(graph, layers, ranges, QuantizationForm(kind))
    assert lint(made, linf=False) == []
    found = HeldOutSet(bundle.model_bytes(), bundle.manifest, crops, threads=1).compare(made)
    assert 30 < found.psnr < 90


def test_srflow_has_no_guard(srflow: Srflow, run: Run, tmp_path: Path) -> None:
    files = ("--model", srflow.files[1], "--prior", srflow.files[3])
    done = run("export-onnx", *files, "-o", tmp_path / "guarded.bundle", "--guard")
    assert done.exit_code == 2
    assert "(--guard)" in done.stderr


def test_a_size_fixed_graph_is_taken_for_its_size(srflow: Srflow, tmp_path: Path) -> None:
    bundle = tmp_path / "sized.bundle"
    shutil.copytree(srflow.bundle, bundle)
    arguments = ["export-onnx", "--bundle", bundle, *srflow.files, "--lr-size", "22x16"]
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    (graph,) = Bundle.open(bundle).manifest.graphs
    assert (graph.file, graph.lr) == ("model.fp32.x4.22x16.onnx", (16, 22))
    # An image of odd sides is padded to the graph's size.
    rgb = np.asarray(picture(15, 21) / 255, np.float32)
    with (
        Upscaler.open(bundle, threads=1) as fixed,
        Upscaler.open(srflow.bundle, threads=1) as free,
    ):
        output = fixed.upscale(rgb, clamp=False)
        np.testing.assert_allclose(output, free.upscale(rgb, clamp=False), rtol=0, atol=1e-5)
    (bundle / graph.file).unlink()
    with (
        Upscaler.open(bundle, threads=1) as broken,
        pytest.raises(IntegrityError, match=graph.file),
    ):
        broken.upscale(rgb)
