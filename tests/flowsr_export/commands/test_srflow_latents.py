"""SRFlow-LP sampled beside its prior, encoded and decoded, from the command line and Python."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flowsr_export.cli import main
from flowsr_lp import save_weights
from flowsr_runtime import LatentCoder, Upscaler
from tests.flowsr_export.networks import (
    small_srflow,
    small_srflow_model,
    small_srflow_prior,
)
from tests.stand_in import picture

Run = Callable[..., Result]
# Sums in another order, through the flow and its inverse.
SAME = 5e-5


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SRFlow-LP bundle to which graphs of latents were added."""
    folder = tmp_path_factory.mktemp("coded")
    network = small_srflow()
    assert network.prior is not None
    model, prior, bundle = (folder / name for name in ("m.safetensors", "p.safetensors", "b"))
    save_weights(model, "model", small_srflow_model(), network.srflow.state_dict())
    save_weights(prior, "prior", small_srflow_prior(), network.prior.state_dict())
    weights = ["--model", model, "--prior", prior]
    for options in (["-o", bundle], ["--bundle", bundle, "--latents"]):
        done = CliRunner().invoke(main, ["export-onnx", *map(str, [*weights, *options])])
        assert done.exit_code == 0, done.output
    assert "latents: encode, decode, and --temperature beside the prior" in done.output
    return bundle


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_a_picture_of_odd_sides_is_encoded_and_decoded_to_itself(
    coded: Path, tmp_path: Path, run: Run
) -> None:
    photo, latents, back = (tmp_path / name for name in ("a.png", "a.npz", "back.png"))
    Image.fromarray(picture(36, 28, "encode")).save(photo)
    done = run("encode", coded, photo, "-o", latents, "--json")
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    # 9x7 pixels are padded to 10x8: 40x32 pixels of output.
    assert (figures["latent0"], figures["latent1"]) == ([6, 20, 16], [96, 5, 4])
    assert figures["size"] == [36, 28]
    assert np.isfinite(figures["log_likelihood"])
    decoded = run("decode", coded, latents, "-o", back)
    assert decoded.exit_code == 0, decoded.stderr
    assert np.abs(pixels(photo) - pixels(back)).max() <= 1


def test_the_padding_of_an_encoded_picture_is_that_of_its_low_resolution_image(
    coded: Path,
) -> None:
    low = picture(10, 8, "low")
    low[9], low[:, 7] = low[7], low[:, 5]
    high = low.repeat(4, axis=0).repeat(4, axis=1)
    with LatentCoder.open(coded) as coder:
        whole = coder.encode(low, high)
        padded = coder.encode(low[:9, :7], high[:36, :28])
    for name, values in whole.latents.items():
        np.testing.assert_allclose(padded.latents[name], values, atol=SAME)


def test_a_picture_that_the_scale_does_not_divide_is_refused(
    coded: Path, tmp_path: Path, run: Run
) -> None:
    photo = tmp_path / "a.png"
    Image.fromarray(picture(36, 30)).save(photo)
    done = run("encode", coded, photo, "-o", tmp_path / "a.npz")
    assert done.exit_code == 2
    assert "target must be 32x36, 4 times the image, got 30x36" in done.stderr
    assert not (tmp_path / "a.npz").exists()


def test_halfway_between_two_pictures_is_neither(coded: Path, tmp_path: Path, run: Run) -> None:
    low = tmp_path / "low.png"
    Image.fromarray(picture(8, 8, "one image of both")).save(low)
    for name in "ab":
        photo, latents = tmp_path / f"{name}.png", tmp_path / f"{name}.npz"
        Image.fromarray(picture(32, 32, name)).save(photo)
        made = run("encode", coded, photo, "-o", latents, "--lr", low)
        assert made.exit_code == 0, made.stderr
    for name, weight in (("half", 0.5), ("transfer", 1)):
        toward = ("--toward", tmp_path / "b.npz", "--weight", weight)
        done = run("decode", coded, tmp_path / "a.npz", "-o", tmp_path / f"{name}.png", *toward)
        assert done.exit_code == 0, done.stderr
    first, second, half, transfer = (
        pixels(tmp_path / f"{name}.png") for name in ("a", "b", "half", "transfer")
    )
    assert np.abs(transfer - second).max() <= 1
    assert min(np.abs(half - first).max(), np.abs(half - second).max()) > 1


def test_samples_beside_the_prior_differ_and_the_prior_alone_is_the_mix_of_one(
    coded: Path, tmp_path: Path, run: Run
) -> None:
    photo = tmp_path / "a.png"
    Image.fromarray(picture(9, 14)).save(photo)
    sampled = ("--temperature", 0.5, "--samples", 2, "--seed", 3)
    assert run("upscale", coded, photo, "-o", tmp_path / "s.png", *sampled).exit_code == 0
    made = [pixels(tmp_path / f"s_seed{seed}.png") for seed in (3, 4)]
    assert np.abs(made[0] - made[1]).max() > 1
    black = tmp_path / "map.png"
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(black)
    mixed = ("--temperature", 1, "--prior-mix", 1, "--temperature-map", black)
    for name, options in (("mixed", mixed), ("prior", ())):
        done = run("upscale", coded, photo, "-o", tmp_path / f"{name}.png", *options)
        assert done.exit_code == 0, done.stderr
    apart = np.abs(pixels(tmp_path / "mixed.png") - pixels(tmp_path / "prior.png"))
    assert apart.max() <= 1


def test_a_map_scales_the_noise_of_every_latent_where_it_lies(coded: Path) -> None:
    image = (picture(16, 480) / 255).astype(np.float32)
    strength = np.zeros((1, 2), np.uint8)
    strength[:, 1] = 255
    options: dict[str, Any] = {"prior_mix": 1, "clamp": False, "warn": print}
    with Upscaler.open(coded, threads=1) as upscaler:
        prior = upscaler.upscale(image, **options)
        noisy = upscaler.upscale(image, temperature=0.5, **options)
        half = upscaler.upscale(image, temperature=0.5, temperature_map=strength, **options)
        exact = 4 * upscaler.bundle.manifest.tiling.exact.pixels
    far = 960 - exact
    assert far > 100
    np.testing.assert_allclose(half[:, :far], prior[:, :far], rtol=0, atol=SAME)
    np.testing.assert_allclose(half[:, -far:], noisy[:, -far:], rtol=0, atol=SAME)
    assert np.abs(noisy - prior).max() > 0.01


def test_the_tiles_of_a_sample_are_the_whole_sample(coded: Path) -> None:
    image = (picture(18, 700) / 255).astype(np.float32)
    options: dict[str, Any] = {"temperature": 0.3, "prior_mix": 0.5, "seed": 2, "warn": print}
    with Upscaler.open(coded, threads=1) as upscaler:
        whole = upscaler.upscale(image, **options)
    with Upscaler.open(coded, threads=1, memory_budget=60_000_000, halo="exact") as upscaler:
        assert len(upscaler.plan((18, 700))) > 1
        tiled = upscaler.upscale(image, **options)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-4)
