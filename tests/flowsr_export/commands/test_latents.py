"""Sampling beside a prior, and the commands `encode` and `decode`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from flowsr_export.cli import main
from flowsr_runtime import write_bundle
from tests.flowsr_export.conftest import Exported
from tests.flowsr_runtime.conftest import SAMPLING
from tests.stand_in import picture

Run = Callable[..., Result]


@pytest.fixture
def sampling(tmp_path: Path) -> Path:
    """A bilinear bundle whose graph of latents adds noise to a share of it."""
    return write_bundle(tmp_path / "sampling", *SAMPLING).path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def test_samples_have_the_next_seeds_and_say_so(
    sampling: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    options = ("--scale", 2, "--temperature", 0.5, "--seed", 7)
    done = run("upscale", sampling, photo, "-o", tmp_path / "a.png", *options, "--samples", 3)
    assert done.exit_code == 0, done.stderr
    made = [tmp_path / f"a_seed{seed}.png" for seed in (7, 8, 9)]
    assert [Path(line.split("  ")[0]) for line in done.stdout.splitlines()[:3]] == made
    assert run("upscale", sampling, photo, "-o", tmp_path / "b.png", *options).exit_code == 0
    assert made[0].read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (pixels(made[0]) != pixels(made[1])).any()


def test_samples_of_several_scales_are_an_image_each(
    sampling: Path, photo: Path, run: Run
) -> None:
    options = ("--scale", "2,3", "--temperature", 1, "--samples", 2)
    assert run("upscale", sampling, photo, *options).exit_code == 0
    names = sorted(path.name for path in photo.parent.glob(f"{photo.stem}_*.png"))
    stem = photo.stem
    assert names == [f"{stem}_x{scale}_seed{seed}.png" for scale in (2, 3) for seed in (0, 1)]


def test_a_black_map_leaves_the_share_of_the_prior(
    sampling: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    black = tmp_path / "map.png"
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(black)
    mixed = ("--temperature", 1, "--prior-mix", 1, "--temperature-map", black)
    for name, options in (("a.png", mixed), ("b.png", ())):
        done = run("upscale", sampling, photo, "-o", tmp_path / name, "--scale", 2, *options)
        assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (("--samples", 2), 2, "--samples needs --temperature above 0"),
        (("--samples", 2, "--temperature", 0), 2, "--samples needs --temperature above 0"),
        (("--temperature", 1, "--temperature-map", "{photo}"), 2, "must be gray, got RGB"),
        (("--temperature", 1, "--temperature-map", "none.png"), 5, "none.png does not exist"),
        (("--temperature-map", "{gray}"), 2, "temperature_map needs a temperature"),
        (
            ("--temperature", 1, "--samples", 2, "--seed", 2**64 - 1),
            2,
            "--seed and --samples must stay below 2**64",
        ),
    ],
)
def test_wrong_latents_are_one_line(
    sampling: Path,
    photo: Path,
    tmp_path: Path,
    run: Run,
    options: tuple[object, ...],
    exit_code: int,
    words: str,
) -> None:
    gray = tmp_path / "gray.png"
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(gray)
    given = [str(option).format(photo=photo, gray=gray) for option in options]
    done = run("upscale", sampling, photo, "-o", tmp_path / "a.png", "--scale", 2, *given)
    assert done.exit_code == exit_code
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "a.png").exists()


@pytest.fixture(scope="module")
def coded(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with graphs of latents."""
    path = tmp_path_factory.mktemp("coded") / "coded.bundle"
    arguments = ["--model", exported.model, "--prior", exported.prior, "-o", path, "--latents"]
    done = CliRunner().invoke(main, ["export-onnx", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert "latents: encode, decode, and --temperature beside the prior" in done.output
    return path


def test_a_picture_is_encoded_and_decoded_to_itself(
    coded: Path, tmp_path: Path, run: Run
) -> None:
    photo, latents, back = (tmp_path / name for name in ("a.png", "a.npz", "back.png"))
    Image.fromarray(picture(24, 33, "encode")).save(photo)
    done = run("encode", coded, photo, "-o", latents, "--scale", 3, "--json")
    figures = json.loads(done.stdout)
    assert (figures["latent"], figures["size"]) == ([27, 8, 11], [24, 33])
    assert np.isfinite(figures["log_likelihood"])
    decoded = run("decode", coded, latents, "-o", back, "--json")
    assert decoded.exit_code == 0
    assert json.loads(decoded.stdout)["output"] == str(back)
    assert np.abs(pixels(photo) - pixels(back)).max() <= 1


def test_weight_one_transfers_a_latent_to_another_image(
    coded: Path, tmp_path: Path, run: Run
) -> None:
    for name in "ab":
        photo, low = tmp_path / f"{name}.png", tmp_path / f"{name}_low.png"
        Image.fromarray(picture(24, 24, name)).save(photo)
        Image.fromarray(picture(8, 8, "one image of both")).save(low)
        done = run("encode", coded, photo, "-o", tmp_path / f"{name}.npz", "--lr", low)
        assert done.exit_code == 0, done.stderr
    toward = ("--toward", tmp_path / "b.npz", "--weight", 1)
    done = run("decode", coded, tmp_path / "a.npz", "-o", tmp_path / "t.png", *toward)
    assert done.exit_code == 0, done.stderr
    assert np.abs(pixels(tmp_path / "t.png") - pixels(tmp_path / "b.png")).max() <= 1


def test_inspect_says_parameters_and_graphs_of_latents(coded: Path, run: Run) -> None:
    lines = run("inspect", coded).stdout.splitlines()
    (parameters,) = (line for line in lines if line.startswith("parameters"))
    total, flow, prior = (
        int(word.strip("(),").replace(",", ""))
        for word in parameters.split()
        if word.strip("(),").replace(",", "").isdigit()
    )
    assert total == flow + prior > prior > 0
    assert any(line.startswith("latent graphs") for line in lines)
