"""The `upscale` command: good images, and each kind of bad input with its exit code."""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from click.testing import Result
from PIL import Image

from flowsr_runtime import write_bundle
from flowsr_runtime.bundle import verdicts
from flowsr_runtime.installation import pip_command
from tests.flowsr_export.conftest import fourfold_graph, fourfold_manifest
from tests.flowsr_runtime.golden import Noisy

Run = Callable[..., Result]

RUNS_ON = "flowsr-export: runs on onnxruntime cpu, fp32\n"


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.width, picture.height


def assert_refused(done: Result, exit_code: int, words: str) -> None:
    """Check for one line on stderr, nothing on stdout, and the exit code."""
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith("flowsr-export: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The output of `upscale`."""
    return tmp_path / "large.png"


@pytest.fixture
def upscale(bundle: Path, photo: Path, large: Path, run: Run) -> Run:
    """Upscale a photo of 6x5 pixels with the bundle of any scale."""
    return lambda *options: run("upscale", bundle, photo, "-o", large, *options)


@pytest.fixture
def upscale_fixed(fourfold: Path, photo: Path, large: Path, run: Run) -> Run:
    """Upscale the photo with the bundle of scale 4."""
    return lambda *options: run("upscale", fourfold, photo, "-o", large, *options)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (("--scale", "2.7"), (16, 14)),
        (("--scale", "2x3"), (12, 15)),
        (("--size", "19x11"), (19, 11)),
        (("--scale", "4", "--max-memory", "8G", "--halo", "exact", "--threads", "1"), (24, 20)),
    ],
)
def test_scales_and_sizes_are_width_and_height(
    options: tuple[str, ...], size: tuple[int, int], upscale: Run, large: Path
) -> None:
    done = upscale(*options)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{large}  {size[0]}x{size[1]}  ")
    assert size_of(large) == size


def test_json_is_one_object(bundle: Path, photo: Path, tmp_path: Path, run: Run) -> None:
    files = (bundle, photo, tmp_path / "none.png", "-o", tmp_path / "out")
    done = run("upscale", *files, "--scale", "2", "--json")
    report = json.loads(done.stdout)
    assert report["done"][0]["target"] == str(tmp_path / "out" / "photo.png")
    assert (report["done"][0]["width"], report["done"][0]["height"]) == (12, 10)
    assert report["failures"][0]["source"] == str(tmp_path / "none.png")
    assert done.exit_code == 5


@pytest.mark.parametrize(
    ("options", "size"), [((), (24, 20)), (("--size", "19x33", "--resample"), (19, 33))]
)
def test_a_bundle_of_one_scale_needs_no_scale_and_resamples(
    options: tuple[str, ...], size: tuple[int, int], upscale_fixed: Run, large: Path
) -> None:
    done = upscale_fixed(*options)
    assert (done.exit_code, done.stderr) == (0, RUNS_ON)
    assert size_of(large) == size


def test_another_scale_than_the_models_is_refused_with_the_remedy(
    upscale_fixed: Run, large: Path
) -> None:
    done = upscale_fixed("--scale", "3")
    assert_refused(done, 2, "scale 4, got 18x15 for 6x5; --resample")
    assert not large.exists()


def test_truncate_cuts_where_rounding_goes_up(upscale: Run, large: Path) -> None:
    results = []
    for options in ((), ("--truncate", "--force")):
        upscale("--scale", "2.7", *options)
        results.append(np.asarray(Image.open(large)).astype(int))
    assert set((results[0] - results[1]).flatten()) == {0, 1}


def test_an_explosion_is_one_line_and_the_picture_is_written(
    exploding: Path, photo: Path, large: Path, run: Run
) -> None:
    done = run("upscale", exploding, photo, "-o", large, "--json")
    (enlarged,) = json.loads(done.stdout)["done"]
    assert done.exit_code == 0
    assert "528 of 1440 values (36.7 %)" in enlarged["warning"]
    assert done.stderr == f"{RUNS_ON}flowsr-export: {photo}: {enlarged['warning']}\n"
    assert size_of(large) == (24, 20)


def test_a_picture_of_nan_is_not_written(
    photo: Path, large: Path, tmp_path: Path, run: Run
) -> None:
    files = {"model.fp32.onnx": fourfold_graph(gain=float("nan"))}
    broken = write_bundle(tmp_path / "broken", fourfold_manifest(), files).path
    done = run("upscale", broken, photo, "-o", large)
    assert_refused(done, 3, "photo.png: the model returned NaN or infinity: 1440 of 1440")
    assert not large.exists()


def test_nothing_is_overwritten_without_force(upscale: Run, large: Path) -> None:
    large.write_bytes(b"old")
    assert_refused(upscale("--scale", "2"), 1, "large.png exists")
    assert large.read_bytes() == b"old"
    assert upscale("--scale", "2", "--force").exit_code == 0
    assert size_of(large) == (12, 10)


@pytest.mark.parametrize(
    ("options", "exit_code", "words"),
    [
        (("--scale", "0.5"), 2, "scale must be"),
        (("--scale", "four"), 2, "scale must be"),
        (("--size", "5x5"), 2, "at least the image's 6x5"),
        (("--scale", "3", "--resample"), 2, "resample is for bundles of one scale"),
        (("--scale", "2", "--size", "12x10"), 2, "give at most one of --scale and --size"),
        (("--scale", "2", "--precision", "fp16"), 5, "holds no fp16 model; it has fp32"),
        (("--depth", "10"), 2, "'10' is not one of 8, 16, float"),
        (("--scale", "2", "-o", "no/o.png"), 1, "o.png cannot be written"),
    ],
)
def test_a_wrong_option_is_one_line(
    options: tuple[str, ...], exit_code: int, words: str, upscale: Run
) -> None:
    assert_refused(upscale(*options), exit_code, words)


@pytest.mark.parametrize("name", ["nope.bundle", "nope", "file.bundle", "file.zip", "folder"])
def test_a_mistyped_bundle_runs_no_other_model(name: str, photo: Path, run: Run) -> None:
    folder = photo.parent
    (folder / "file.bundle").write_bytes(b"no bundle, but a file")
    (folder / "file.zip").write_bytes(b"PK\x03\x04 the bundle as it was downloaded")
    (folder / "folder").mkdir()
    before = sorted(folder.iterdir())
    done = run("upscale", folder / name, photo)
    assert_refused(done, 5, name)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "name", "size"),
    [
        ((), "photo_x4.png", (24, 20)),
        (("--scale", "2.7"), "photo_x2.7.png", (16, 14)),
        (("--scale", "2x3"), "photo_x2x3.png", (12, 15)),
        (("--size", "19x11"), "photo_19x11.png", (19, 11)),
        (("--depth", "float"), "photo_x4.tif", (24, 20)),
    ],
)
def test_a_picture_alone_is_upscaled_beside_itself(
    options: tuple[str, ...],
    name: str,
    size: tuple[int, int],
    bundle: Path,
    photo: Path,
    run: Run,
) -> None:
    large = photo.with_name(name)
    done = run("upscale", bundle, photo, *options)
    assert (done.exit_code, done.stderr) == (0, RUNS_ON)
    assert done.stdout.startswith(f"{large}  ")
    if large.suffix == ".png":
        assert size_of(large) == size
    content = large.read_bytes()
    assert_refused(run("upscale", bundle, photo, *options), 1, f"{large} exists")
    assert large.read_bytes() == content
    assert run("upscale", bundle, photo, *options, "--force").exit_code == 0


def test_a_bundle_of_one_scale_names_its_output_by_it(
    fourfold: Path, photo: Path, run: Run
) -> None:
    assert run("upscale", fourfold, photo).exit_code == 0
    assert size_of(photo.with_name("photo_x4.png")) == (24, 20)


def test_several_pictures_are_each_upscaled_beside_themselves(
    bundle: Path, pictures: Path, photo: Path, run: Run
) -> None:
    (pictures / "a.png").unlink()
    before = set(pictures.iterdir())
    assert run("upscale", bundle, photo, pictures, "--scale", "2").exit_code == 0
    made = {path.with_name(f"{path.stem}_x2.png") for path in {*before, photo}}
    assert all(path.exists() for path in made)


def test_a_second_run_over_a_folder_does_not_upscale_its_own_outputs(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photo.rename(folder / "photo.png")
    assert run("upscale", bundle, folder, "--scale", "2").exit_code == 0
    again = run("upscale", bundle, folder, "--scale", "3")
    assert again.exit_code == 0
    first = folder / "photo_x2.png"
    assert f"left out 1 earlier output, such as {first}; name a file" in again.stderr
    assert {path.name for path in folder.iterdir()} == {
        "photo.png",
        "photo_x2.png",
        "photo_x3.png",
    }
    assert run("upscale", bundle, first, "--scale", "2").exit_code == 0
    assert size_of(folder / "photo_x2_x2.png") == (24, 20)


def test_the_json_says_what_the_model_ran_on(bundle: Path, photo: Path, run: Run) -> None:
    report = json.loads(run("upscale", bundle, photo, "--json").stdout)
    assert report["runs_on"] == {
        "backend": "onnxruntime",
        "provider": "cpu",
        "device": 0,
        "precision": "fp32",
        "passed_over": {},
        "self_test": "self-test passed, max error 0",
    }


def test_nothing_is_said_of_a_backend_that_was_named(upscale: Run) -> None:
    done = upscale("--backend", "onnxruntime", "--precision", "fp32")
    assert (done.exit_code, done.stderr) == (0, "")


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A CUDA provider that starts, fails nowhere, and returns noise; no verdict is kept yet."""
    monkeypatch.setattr(verdicts, "cache_folder", lambda: tmp_path / "cache")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr("flowsr_runtime.backends.session.count_gpus", lambda: 1)
    place = "flowsr_runtime.backends.onnxruntime_session.OnnxRuntimeSession"
    monkeypatch.setattr(place, Noisy)


@pytest.mark.usefixtures("noisy")
def test_a_provider_that_returns_noise_ends_with_3_and_nothing_is_written(
    upscale: Run, bundle: Path, tmp_path: Path, run: Run
) -> None:
    done = upscale("--provider", "cuda")
    assert_refused(done, 3, "misses the golden pair")
    assert "onnxruntime cuda" in done.stderr
    assert not (tmp_path / "o.png").exists()
    shown = run("inspect", bundle).stdout
    assert "FAILED, max error must be at most 0.0001" in shown


@pytest.mark.usefixtures("noisy")
def test_a_provider_that_returns_noise_is_passed_over_and_said(upscale: Run) -> None:
    done = upscale()
    assert done.exit_code == 0
    words = "runs on onnxruntime cpu, fp32; not onnxruntime cuda:0, fp32: onnxruntime cuda ("
    assert words in done.stderr


@pytest.mark.usefixtures("noisy")
def test_a_self_test_that_is_switched_off_is_said(upscale: Run) -> None:
    done = upscale("--provider", "cuda", "--no-self-test")
    assert done.exit_code == 0
    assert "cuda:0, fp32, not tested: the self-test was switched off\n" in done.stderr
    named = upscale(
        "--backend", "onnxruntime", "--precision", "fp32", "--no-self-test", "--force"
    )
    assert named.stderr == "flowsr-export: not tested: the self-test was switched off\n"


def test_a_missing_file_is_named(bundle: Path, tmp_path: Path, run: Run) -> None:
    done = run("upscale", bundle, tmp_path / "none.png", "-o", tmp_path / "o.png", "--scale", 2)
    assert_refused(done, 5, "none.png does not exist")


def test_a_bundle_without_pictures_is_a_usage_error(bundle: Path, run: Run) -> None:
    done = run("upscale", bundle, "-o", "o.png", "--scale", "2")
    assert_refused(done, 2, "name the images after it")


def test_a_flipped_byte_in_the_bundle_is_refused(bundle: Path, upscale: Run) -> None:
    model = bundle / "model.fp32.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\xff")
    assert_refused(upscale("--scale", "2"), 5, "model.fp32.onnx is damaged")


@pytest.mark.parametrize(
    ("old", "new", "options", "exit_code", "words"),
    [
        ('"schema": 1', '"schema": 2', (), 5, "schema 2 is newer than this runtime reads (1)"),
        (
            '"base_bytes": 0',
            '"base_bytes": 1000000000',
            ("--max-memory", "900M"),
            6,
            "max_memory must be at least",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    old: str,
    new: str,
    options: tuple[str, ...],
    exit_code: int,
    words: str,
    bundle: Path,
    upscale: Run,
) -> None:
    manifest = bundle / "bundle.json"
    manifest.write_text(manifest.read_text().replace(old, new))
    assert_refused(upscale("--scale", "2", *options), exit_code, words)


def test_a_full_disk_leaves_the_old_output(
    upscale: Run, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    large.write_bytes(b"old")
    monkeypatch.setattr("flowsr_runtime.atomic.os.fsync", fail)
    done = upscale("--scale", "2", "--force", "--backend", "onnxruntime", "--precision", "fp32")
    assert_refused(done, 1, "large.png cannot be written: No space left on device")
    assert large.read_bytes() == b"old"
    assert {path.name for path in large.parent.iterdir()} == {
        "bundle",
        "large.png",
        "photo.png",
    }


@pytest.mark.parametrize(
    ("options", "missing", "extra"),
    [
        (("--provider", "cuda"), {}, "gpu"),
        (("--backend", "tensorrt"), {"tensorrt": None}, "tensorrt"),
        ((), {"onnxruntime": None}, "cpu"),
    ],
)
def test_a_missing_backend_is_refused_with_the_remedy(
    options: tuple[str, ...],
    missing: dict[str, None],
    extra: str,
    upscale: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    available = "onnxruntime.get_available_providers"
    monkeypatch.setattr(available, lambda: ["CPUExecutionProvider"])
    if "onnxruntime" in missing:
        module = "flowsr_runtime.backends.onnxruntime_session"
        monkeypatch.delitem(sys.modules, module, raising=False)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    done = upscale("--scale", "2", *options)
    assert_refused(done, 4, pip_command(extra))
