"""The `upscale` command: good images, and each kind of bad input with its exit code."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from flowsr_runtime import write_bundle
from tests.flowsr_export.conftest import fourfold_graph, fourfold_manifest

Run = Callable[..., Result]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.width, picture.height


def assert_refused(done: Result, exit_code: int, words: str) -> None:
    """Check for one line on stderr, nothing on stdout, and the exit code."""
    assert done.exit_code == exit_code
    assert done.stdout == ""
    assert done.stderr.startswith("flowsr-export: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_scale_enlarges(bundle: Path, photo: Path, tmp_path: Path, run: Run) -> None:
    done = run("upscale", bundle, photo, "-o", tmp_path / "large.png", "--scale", "2.7")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{tmp_path / 'large.png'}  16x14  ")
    assert size_of(tmp_path / "large.png") == (16, 14)


def test_two_scales_are_for_width_and_height(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    run("upscale", bundle, photo, "-o", tmp_path / "large.png", "--scale", "2x3")
    assert size_of(tmp_path / "large.png") == (12, 15)


def test_a_size_is_width_and_height(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    run("upscale", bundle, photo, "-o", tmp_path / "large.png", "--size", "19x11")
    assert size_of(tmp_path / "large.png") == (19, 11)


def test_a_small_budget_and_an_exact_halo_are_taken(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    limits = ("--max-memory", "1G", "--halo", "exact", "--threads", "1")
    done = run("upscale", bundle, photo, "-o", tmp_path / "large.png", "--scale", "4", *limits)
    assert done.exit_code == 0


def test_json_is_one_object(bundle: Path, photo: Path, tmp_path: Path, run: Run) -> None:
    done = run(
        "upscale",
        bundle,
        photo,
        tmp_path / "none.png",
        "-o",
        tmp_path / "out",
        "--scale",
        "2",
        "--json",
    )
    report = json.loads(done.stdout)
    assert report["done"][0]["target"] == str(tmp_path / "out" / "photo.png")
    assert (report["done"][0]["width"], report["done"][0]["height"]) == (12, 10)
    assert report["failures"][0]["source"] == str(tmp_path / "none.png")
    assert done.exit_code == 1


def test_a_bundle_of_one_scale_needs_no_scale(
    fourfold: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", fourfold, photo, "-o", tmp_path / "large.png")
    assert (done.exit_code, done.stderr) == (0, "")
    assert size_of(tmp_path / "large.png") == (24, 20)


def test_another_scale_than_the_models_is_refused_with_the_remedy(
    fourfold: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", fourfold, photo, "-o", tmp_path / "o.png", "--scale", "3")
    assert_refused(done, 2, "scale 4, got 18x15 for 6x5; resample=True")
    assert not (tmp_path / "o.png").exists()


def test_resample_reaches_any_size(
    fourfold: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    options = ("--size", "19x33", "--resample")
    done = run("upscale", fourfold, photo, "-o", tmp_path / "o.png", *options)
    assert done.exit_code == 0
    assert size_of(tmp_path / "o.png") == (19, 33)


def test_resample_is_refused_where_any_scale_is_made(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    options = ("--scale", "3", "--resample")
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", *options)
    assert_refused(done, 2, "resample is for bundles of one scale")


def test_truncate_cuts_where_rounding_goes_up(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    for name, options in (("cut.png", ("--truncate",)), ("round.png", ())):
        run("upscale", bundle, photo, "-o", tmp_path / name, "--scale", "2.7", *options)
    cut, rounded = (
        np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("cut.png", "round.png")
    )
    assert set((rounded - cut).flatten()) == {0, 1}


def test_an_explosion_is_one_line_and_the_picture_is_written(
    exploding: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", exploding, photo, "-o", tmp_path / "o.png")
    assert done.exit_code == 0
    assert done.stderr == (
        f"flowsr-export: {photo}: the inverse of the flow may have exploded: 528 of 1440 "
        "values (36.7 %) lie outside [-1, 2], in output rows 12-19, columns 0-23\n"
    )
    assert size_of(tmp_path / "o.png") == (24, 20)


def test_an_explosion_is_in_the_json(
    exploding: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", exploding, photo, "-o", tmp_path / "o.png", "--json")
    (enlarged,) = json.loads(done.stdout)["done"]
    assert enlarged["warning"] in done.stderr
    assert "528 of 1440 values" in enlarged["warning"]


def test_a_picture_of_nan_is_not_written(photo: Path, tmp_path: Path, run: Run) -> None:
    files = {"model.fp32.onnx": fourfold_graph(gain=float("nan"))}
    broken = write_bundle(tmp_path / "broken", fourfold_manifest(), files).path
    done = run("upscale", broken, photo, "-o", tmp_path / "o.png")
    assert_refused(done, 3, "photo.png: the model returned NaN or infinity: 1440 of 1440")
    assert not (tmp_path / "o.png").exists()


def test_nothing_is_overwritten_without_force(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "large.png").write_bytes(b"old")
    done = run("upscale", bundle, photo, "-o", tmp_path / "large.png", "--scale", "2")
    assert_refused(done, 1, "large.png exists")
    assert (tmp_path / "large.png").read_bytes() == b"old"


def test_force_overwrites(bundle: Path, photo: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "large.png").write_bytes(b"old")
    done = run(
        "upscale", bundle, photo, "-o", tmp_path / "large.png", "--scale", "2", "--force"
    )
    assert done.exit_code == 0
    assert size_of(tmp_path / "large.png") == (12, 10)


def test_a_missing_file_is_named(bundle: Path, tmp_path: Path, run: Run) -> None:
    done = run("upscale", bundle, tmp_path / "none.png", "-o", tmp_path / "o.png", "--scale", 2)
    assert_refused(done, 1, "none.png does not exist")


@pytest.mark.parametrize("scale", ["0.5", "four"])
def test_a_scale_that_makes_no_sense_is_refused(
    scale: str, bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", f"--scale={scale}")
    assert_refused(done, 2, "scale must be")


@pytest.mark.parametrize("size", ["5x5"])
def test_a_size_below_the_picture_is_refused(
    size: str, bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", f"--size={size}")
    assert_refused(done, 2, "at least the image's 6x5")


@pytest.mark.parametrize("options", [(), ("--scale", "2", "--size", "12x10")])
def test_exactly_one_of_scale_and_size_is_needed(
    options: tuple[str, ...], bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", *options)
    assert done.exit_code == 2
    assert "give exactly one of --scale and --size" in done.stderr


def test_a_bundle_without_pictures_is_a_usage_error(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", bundle, "-o", tmp_path / "o.png", "--scale", "2")
    assert done.exit_code == 2
    assert "name the images after it" in done.stderr


def test_a_flipped_byte_in_the_bundle_is_refused(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    model = bundle / "model.fp32.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\xff")
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", "--scale", "2")
    assert_refused(done, 5, "model.fp32.onnx is damaged")


def test_a_newer_bundle_is_refused(bundle: Path, photo: Path, tmp_path: Path, run: Run) -> None:
    manifest = bundle / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 2'))
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", "--scale", "2")
    assert_refused(done, 5, "bundle schema 2 is newer than this runtime reads (1)")


def test_a_precision_that_the_bundle_lacks_is_refused(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run(
        "upscale",
        bundle,
        photo,
        "-o",
        tmp_path / "o.png",
        "--scale",
        "2",
        "--precision",
        "fp16",
    )
    assert_refused(done, 5, "holds no fp16 model; it has fp32")


def test_an_unwritable_output_is_named(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run("upscale", bundle, photo, "-o", tmp_path / "no" / "o.png", "--scale", "2")
    assert_refused(done, 1, "o.png cannot be written")


def test_a_full_disk_leaves_the_old_output(
    bundle: Path, photo: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "large.png").write_bytes(b"old")
    monkeypatch.setattr("flowsr_runtime.atomic.os.fsync", fail)
    done = run(
        "upscale", bundle, photo, "-o", tmp_path / "large.png", "--scale", "2", "--force"
    )
    assert_refused(done, 1, "large.png cannot be written: No space left on device")
    assert (tmp_path / "large.png").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bundle",
        "large.png",
        "photo.png",
    ]


def test_a_provider_that_is_not_installed_is_refused(
    bundle: Path, photo: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = "onnxruntime.get_available_providers"
    monkeypatch.setattr(available, lambda: ["CPUExecutionProvider"])
    done = run(
        "upscale", bundle, photo, "-o", tmp_path / "o.png", "--scale", "2", "--provider", "cuda"
    )
    assert_refused(done, 4, "pip install 'flowsr-lp[gpu]'")


def test_a_missing_tensorrt_is_refused(
    bundle: Path, photo: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    words = ("--scale", "2", "--backend", "tensorrt")
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", *words)
    assert_refused(done, 4, "pip install 'flowsr-lp[tensorrt]'")


def test_a_missing_onnxruntime_is_refused(
    bundle: Path, photo: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(
        sys.modules, "flowsr_runtime.backends.onnxruntime_session", raising=False
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = run("upscale", bundle, photo, "-o", tmp_path / "o.png", "--scale", "2")
    assert_refused(done, 4, "onnxruntime is not installed; pip install 'flowsr-lp[cpu]'")


def test_a_budget_that_is_too_small_ends_with_6(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    manifest = bundle / "bundle.json"
    hungry = manifest.read_text().replace('"base_bytes": 0', '"base_bytes": 1000000000')
    manifest.write_text(hungry)
    done = run(
        "upscale",
        bundle,
        photo,
        "-o",
        tmp_path / "o.png",
        "--scale",
        "2",
        "--max-memory",
        "900M",
    )
    assert_refused(done, 6, "max_memory must be at least 1")
