"""The `upscale` command with images of different depths."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from flowsr_runtime import read_picture, write_picture

Run = Callable[..., Result]


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """A gray picture of 16 bits with alpha, darker than 8 bits can tell."""
    write_picture(tmp_path / "deep.png", np.full((3, 4, 2), (77, 65535), np.uint16))
    return tmp_path / "deep.png"


def test_a_picture_keeps_its_depth(bundle: Path, deep: Path, tmp_path: Path, run: Run) -> None:
    done = run("upscale", bundle, deep, "-o", tmp_path / "large.png", "--scale", "2")
    large = read_picture(tmp_path / "large.png")
    assert done.exit_code == 0
    assert (large.depth, large.mode, large.pixels.shape) == (16, "LA", (6, 8, 2))
    assert np.unique(large.rgb).tolist() == [77]


def test_what_a_format_does_not_hold_is_refused(
    bundle: Path, deep: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", bundle, deep, "-o", tmp_path / "large.webp", "--scale", "2")
    assert done.exit_code == 1
    assert (
        "WEBP holds no 16 bits per channel; write PNG or TIFF, or give depth 8" in done.stderr
    )
    assert not (tmp_path / "large.webp").exists()


def test_a_smaller_depth_is_written_when_it_is_asked_for(
    bundle: Path, deep: Path, tmp_path: Path, run: Run
) -> None:
    output = tmp_path / "large.webp"
    run("upscale", bundle, deep, "-o", output, "--scale", "2", "--depth", "8")
    assert read_picture(output).depth == 8


@pytest.mark.parametrize(
    ("depth", "suffix"), [("16", "png"), ("16", "tiff"), ("float", "tiff")]
)
def test_a_larger_depth_is_computed_and_not_filled_up(
    bundle: Path, photo: Path, tmp_path: Path, run: Run, depth: str, suffix: str
) -> None:
    output = tmp_path / f"large.{suffix}"
    run("upscale", bundle, photo, "-o", output, "--scale", "2.7", "--depth", depth)
    large = read_picture(output)
    assert str(large.depth) == depth
    steps = large.rgb.astype(np.float64) / (257 if depth == "16" else 1 / 255)
    assert (np.abs(steps - np.round(steps)) > 0.01).any()


def test_a_dry_run_knows_the_depth(bundle: Path, deep: Path, tmp_path: Path, run: Run) -> None:
    output = tmp_path / "large.webp"
    refused = run("upscale", bundle, deep, "-o", output, "--scale", "2", "--dry-run")
    taken = run(
        "upscale", bundle, deep, "-o", output, "--scale", "2", "--dry-run", "--depth", 8
    )
    assert (refused.exit_code, taken.exit_code) == (1, 0)
