"""Models to evaluate: opened, described, refused; bundle and PyTorch agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_export.evaluation.model import (
    BICUBIC,
    TORCH,
    bundle_model,
    open_model,
    torch_model,
)
from flowsr_lp import embedded_checkpoint, load_checkpoint, save_weights
from flowsr_lp.linf.query import Border
from flowsr_runtime import (
    Bundle,
    SessionSettings,
    Upscaler,
    embedded_bundle,
    write_bundle,
)
from flowsr_runtime.errors import NonFiniteError, ScaleError, UsageError
from flowsr_runtime.pictures.pixels import full_range
from tests.flowsr_export.evaluation.evaluations import noisy_bundle
from tests.flowsr_export.networks import small_model, small_prior, small_srflow
from tests.flowsr_runtime.conftest import SAMPLING
from tests.stand_in import network, picture

PLAIN = SessionSettings(threads=1)
IN_TORCH = SessionSettings(TORCH)
LOW = picture(9, 12, "method")


def check_refused(words: str, settings: SessionSettings, **options: Any) -> None:
    with pytest.raises(UsageError, match=words), open_model(settings, **options):
        pass


def test_a_bundle_is_described_by_its_hashes() -> None:
    with open_model(PLAIN) as model:
        stated = Bundle.open(embedded_bundle()).manifest
        assert model.about["what"] == "model.fp32.onnx of built-in bundle"
        assert model.about["graph_sha256"] == stated.files["model.fp32.onnx"].sha256
        assert model.about["model_sha256"] == stated.raw["model"]["model_sha256"]
        assert (model.scale, model.provider) == (None, "cpu")
        assert list(model.libraries) == ["onnxruntime"]


def test_pytorch_runs_the_built_in_checkpoint_and_a_bundles_own() -> None:
    with open_model(IN_TORCH) as model:
        assert model.about["what"] == "built-in checkpoint"
        assert model.upscale(picture(6, 6), (12, 12), 0).picture.shape == (12, 12, 3)
    with open_model(PLAIN) as bundle:
        assert bundle.about["model_sha256"] == model.about["model_sha256"]


def test_pytorch_runs_a_checkpoint_that_was_not_exported(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net = network(small_model(), None)
    save_weights(path, "model", small_model(), net.linf.state_dict())
    with open_model(IN_TORCH, model=path, temperature=0.0) as model:
        assert model.about["what"] == str(path)
        assert model.about["prior_sha256"] is None
        assert model.upscale(picture(6, 6), (18, 18), 0).picture.shape == (18, 18, 3)


def test_a_bundle_of_one_scale_takes_no_other(fourfold: Path) -> None:
    with open_model(PLAIN, fourfold) as model:
        assert model.scale == "4"
        model.check_scales(("4", "4.0"))
        with pytest.raises(UsageError, match="scale 4, got 2"):
            model.check_scales(("2",))


def test_scales_are_checked_before_anything_is_enlarged(bundle: Path) -> None:
    with open_model(PLAIN, bundle) as model:
        model.check_scales(("1", "2.7", "8/3"))
        with pytest.raises(ScaleError, match=r"scale must be at least 1, got 0\.5"):
            model.check_scales(("2", "0.5"))


def test_arguments_that_exclude_each_other_are_refused(bundle: Path, tmp_path: Path) -> None:
    check_refused("torch, got auto", PLAIN, model=tmp_path / "a")
    check_refused("prior", IN_TORCH, prior=tmp_path / "a")
    check_refused("exported from", IN_TORCH, bundle=bundle)
    check_refused("memory_budget", IN_TORCH, memory_budget=1)
    check_refused("halo", IN_TORCH, halo="exact")
    check_refused("fp32", SessionSettings(TORCH, precision="fp16"))
    check_refused("workers", SessionSettings(TORCH, workers=2))
    check_refused("cuda with backend torch, got 'openvino'", SessionSettings(TORCH, "openvino"))


def test_bicubic_is_matlabs() -> None:
    assert np.array_equal(
        BICUBIC.upscale(LOW, (24, 33), 5).picture, matlab_bicubic(LOW, (24, 33))
    )
    assert not BICUBIC.is_random


def test_pytorch_gives_what_the_bundle_gives() -> None:
    checkpoint = load_checkpoint(*embedded_checkpoint())
    torch_picture = torch_model(checkpoint.network).upscale(LOW, (24, 33), 0).picture
    with Upscaler.open(threads=1) as upscaler:
        bundle_picture = bundle_model(upscaler).upscale(LOW, (24, 33), 0).picture
    steps = np.abs(torch_picture.astype(int) - bundle_picture)
    assert steps.max() <= 1
    assert (steps > 0).mean() < 1e-3


def test_a_bundle_with_noise_has_samples(tmp_path: Path) -> None:
    with Upscaler.open(noisy_bundle(tmp_path / "noisy"), threads=1) as upscaler:
        model = bundle_model(upscaler, 0.1)
        first, again, other = (model.upscale(LOW, (18, 24), seed).picture for seed in (1, 1, 2))
        assert model.is_random
        assert not bundle_model(upscaler, 0.0).is_random
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_bundle_with_both_ways_has_a_prior_and_samples(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "both", *SAMPLING)
    with Upscaler.open(bundle, threads=1) as upscaler:
        learned, sampled = bundle_model(upscaler), bundle_model(upscaler, 0.5)
        assert (learned.is_random, sampled.is_random) == (False, True)
        first = learned.upscale(LOW, (18, 24), 1).picture
        assert not np.array_equal(first, sampled.upscale(LOW, (18, 24), 1).picture)
        assert learned.at is not None
        assert np.array_equal(
            sampled.upscale(LOW, (18, 24), 1).picture,
            learned.at(0.5).upscale(LOW, (18, 24), 1).picture,
        )


def test_truncation_is_the_models(fourfold: Path) -> None:
    with Upscaler.open(fourfold, threads=1) as upscaler:
        cut = bundle_model(upscaler, truncate=True).upscale(LOW, (36, 48), 0).picture
    # Eight bits come back, except where float32 is slightly below a whole step.
    assert np.isin(LOW.repeat(4, 0).repeat(4, 1).astype(int) - cut, (0, 1)).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_pytorch_samples_a_network_without_a_prior(temperature: float) -> None:
    model = torch_model(network(small_model(), None), temperature=temperature)
    first, again, other = (model.upscale(LOW, (18, 24), seed).picture for seed in (1, 1, 2))
    assert model.is_random == (temperature > 0)
    assert first.shape == (18, 24, 3)
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) != model.is_random


@pytest.mark.parametrize("border", ["paired", "tight"])
def test_pytorch_has_the_published_borders(border: Border) -> None:
    net = network(small_model(), small_prior())
    picture = torch_model(net, border=border).upscale(LOW, (19, 25), 0)
    rgb = torch.from_numpy(full_range(LOW.transpose(2, 0, 1)[None]))
    with torch.inference_mode():
        output = net(rgb, (19, 25), border=border).output[0].numpy()
    assert picture.values is not None
    expected = np.clip(output.transpose(1, 2, 0), 0, 1) * 255
    np.testing.assert_allclose(picture.values, expected, atol=1e-3)
    inside = torch_model(net).upscale(LOW, (19, 25), 0)
    assert inside.values is not None
    assert np.abs(picture.values - inside.values).max() > 1  # the last row or column
    sampled = torch_model(network(small_model(), None), temperature=0.5, border=border)
    assert sampled.upscale(LOW, (19, 25), 0).picture.shape == (19, 25, 3)


def test_a_border_is_for_linf_in_pytorch() -> None:
    with pytest.raises(UsageError, match="border tight is for LINF, got SRFlow"):
        torch_model(small_srflow(), border="tight")
    check_refused("border tight needs backend torch", PLAIN, border="tight")


def test_a_network_and_a_temperature_go_together() -> None:
    with pytest.raises(UsageError, match="temperature is needed"):
        torch_model(network(small_model(), None))
    with pytest.raises(UsageError, match=r"temperature .* got 0\.8"):
        torch_model(small_srflow(), temperature=0.8)
    with pytest.raises(UsageError, match=r"temperature .* got -1"):
        torch_model(network(small_model(), None), temperature=-1.0)


def test_srflow_has_one_scale_and_takes_odd_sides() -> None:
    model = torch_model(small_srflow())
    assert model.upscale(picture(9, 11), (36, 44), 0).picture.shape == (36, 44, 3)
    with pytest.raises(ScaleError, match="scale 4, got 11x9 to 33x27"):
        model.upscale(picture(9, 11), (27, 33), 0)


def test_values_that_are_not_finite_are_an_error() -> None:
    broken = network(small_model(), None)
    next(broken.linf.layers.parameters()).data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        torch_model(broken, temperature=0.0).upscale(LOW, (18, 24), 0)
