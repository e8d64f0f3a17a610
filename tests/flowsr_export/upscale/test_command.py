"""The `upscale` command: sizes, formats, animations, stdin and stdout."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, PngImagePlugin

from flowsr_export.cli import main
from flowsr_runtime import Upscaler

Run = Callable[..., Result]


def save(path: Path, width: int, height: int, mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), "red").save(path, **options)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        width, height = image.size
        return width, height


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder of a wide and a tall image."""
    save(tmp_path / "in" / "wide.png", 12, 6)
    save(tmp_path / "in" / "tall.png", 6, 12)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("options", "wide", "tall"),
    [
        ("--size 40x30", (40, 20), (15, 30)),
        ("--size 40x30 --fit inside", (40, 20), (15, 30)),
        ("--size 40x30 --fit cover", (60, 30), (40, 80)),
        ("--size 40x30 --fit exact", (40, 30), (40, 30)),
        ("--size 40x", (40, 20), (40, 80)),
        ("--size x30", (60, 30), (15, 30)),
        ("--width 40", (40, 20), (40, 80)),
        ("--height 30", (60, 30), (15, 30)),
        ("--width 40 --height 30", (40, 20), (15, 30)),
    ],
)
def test_images_of_a_folder_keep_their_shape_unless_they_are_stretched(
    bundle: Path,
    shapes: Path,
    tmp_path: Path,
    run: Run,
    options: str,
    wide: tuple[int, int],
    tall: tuple[int, int],
) -> None:
    done = run("upscale", bundle, shapes, "-o", tmp_path / "out", *options.split())
    assert done.exit_code == 0, done.stderr
    assert size_of(tmp_path / "out" / "wide.png") == wide
    assert size_of(tmp_path / "out" / "tall.png") == tall
    said = "kept in shape inside 40x30; --fit exact stretches them" in done.stderr
    assert said == (options in ("--size 40x30", "--width 40 --height 30"))


def test_one_image_has_the_exact_size_that_is_asked(
    bundle: Path, shapes: Path, tmp_path: Path, run: Run
) -> None:
    options = ("-o", tmp_path / "o.png", "--size", "40x30")
    done = run("upscale", bundle, shapes / "wide.png", *options)
    assert done.exit_code == 0, done.stderr
    assert size_of(tmp_path / "o.png") == (40, 30)


def test_a_dry_run_says_the_size_that_is_made(
    bundle: Path, shapes: Path, tmp_path: Path, run: Run
) -> None:
    options = ("-o", tmp_path / "out", "--size", "40x30", "--dry-run", "--json")
    rows = json.loads(run("upscale", bundle, shapes, *options).stdout)["planned"]
    assert [(row["width"], row["height"]) for row in rows] == [(15, 30), (40, 20)]


@pytest.mark.parametrize(("name", "kind"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF")])
def test_a_folder_is_written_in_a_format_and_a_quality(
    bundle: Path, shapes: Path, tmp_path: Path, run: Run, name: str, kind: str
) -> None:
    quality = () if name == "tif" else ("--quality", "60")
    options = ("-o", tmp_path / "out", "--format", name, *quality, "--scale", "2")
    done = run("upscale", bundle, shapes, *options)
    assert done.exit_code == 0, done.stderr
    with Image.open(tmp_path / "out" / f"wide.{name}") as image:
        assert (image.format, image.size) == (kind, (24, 12))


def test_the_same_command_again_is_one_line_and_the_missing_image_is_made(
    bundle: Path, shapes: Path, tmp_path: Path, run: Run
) -> None:
    arguments = ("upscale", bundle, shapes, "-o", tmp_path / "out", "--scale", "2")
    assert run(*arguments).exit_code == 0
    save(shapes / "new.png", 5, 5)
    done = run(*arguments)
    assert done.exit_code == 1
    assert size_of(tmp_path / "out" / "new.png") == (10, 10)
    lines = [line for line in done.stderr.splitlines() if "exist" in line]
    assert len(lines) == 1
    assert "2 outputs exist and are kept; --skip-existing" in lines[0]


def test_a_color_lies_behind_alpha_where_a_format_holds_none(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    Image.new("RGBA", (6, 5), (255, 0, 0, 0)).save(tmp_path / "a.png")
    options = ("--scale", "2", "--background", "#00ff00")
    for name in ("o.jpg", "o.bmp", "o.webp"):
        done = run("upscale", bundle, tmp_path / "a.png", "-o", tmp_path / name, *options)
        assert done.exit_code == 0, done.stderr
    for name in ("o.jpg", "o.bmp"):
        with Image.open(tmp_path / name) as image:
            color = np.array(image).reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(color, [0, 255, 0], atol=2)
    with Image.open(tmp_path / "o.webp") as image:
        assert image.getextrema()[3] == (0, 0)
    done = run("upscale", bundle, tmp_path / "a.png", "-o", tmp_path / "x.jpg", "--scale", "2")
    assert (done.exit_code, "holds no alpha" in done.stderr) == (1, True)


@pytest.fixture
def animation(tmp_path: Path) -> Path:
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "lime", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=70, loop=0)
    return path


@pytest.mark.parametrize("name", ["o.png", "o.webp"])
def test_all_frames_of_an_animation_are_upscaled(
    bundle: Path, animation: Path, tmp_path: Path, run: Run, name: str
) -> None:
    options = ("-o", tmp_path / name, "--scale", "2", "--all-frames", "--json")
    done = run("upscale", bundle, animation, *options)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["done"][0]["frames"] == 3
    with Image.open(tmp_path / name) as image:
        assert (image.n_frames, image.size) == (3, (12, 10))
        image.seek(1)
        image.load()
        assert image.info["duration"] == 70
        assert image.convert("RGB").getpixel((3, 3)) == (0, 255, 0)


def test_the_first_frame_of_an_animation_is_upscaled_with_one_line(
    bundle: Path, animation: Path, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    done = run("upscale", bundle, animation, "-o", tmp_path / "o.jpg", "--scale", "2")
    assert done.exit_code == 0, done.stderr
    assert caplog.messages == [f"{animation}: only the first of its frames is read"]
    assert size_of(tmp_path / "o.jpg") == (12, 10)


@pytest.mark.parametrize("depth", ["16", None])
def test_frames_that_a_format_or_depth_cannot_hold_are_refused(
    bundle: Path, animation: Path, tmp_path: Path, run: Run, depth: str | None
) -> None:
    target = tmp_path / ("o.jpg" if depth is None else "o.png")
    options = ("--all-frames", *(("--depth", depth) if depth else ()))
    done = run("upscale", bundle, animation, "-o", target, "--scale", "2", *options)
    words = "JPEG holds one frame" if depth is None else "several frames are of 8 bits"
    assert (done.exit_code, words in done.stderr) == (1, True)
    assert not target.exists()


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("options", "kind"),
    [((), "PNG"), (("-o", "-", "--format", "jpg", "--quality", "70"), "JPEG")],
)
def test_an_image_goes_from_stdin_to_stdout(
    bundle: Path, options: tuple[str, ...], kind: str
) -> None:
    words = ["upscale", str(bundle), "-", *options, "--scale", "2"]
    done = CliRunner().invoke(main, words, input=png(6, 5))
    assert done.exit_code == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout_bytes)) as image:
        assert (image.format, image.size) == (kind, (12, 10))


def test_an_animation_goes_to_stdout(bundle: Path, animation: Path) -> None:
    words = ["upscale", str(bundle), str(animation), "-o", "-", "--scale", "2", "--all-frames"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout_bytes)) as image:
        assert (image.n_frames, image.size) == (3, (12, 10))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("-", "--json"), 2, "--json and the image would both go to stdout"),
        (("-", "--ray"), 2, "- is not for --ray"),
        (("-",), 5, "is empty"),
    ],
)
def test_what_stdin_and_stdout_cannot_be_is_one_line(
    bundle: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = CliRunner().invoke(main, ["upscale", str(bundle), *words, "--scale", "2"], input=b"")
    assert done.exit_code == code
    assert done.stdout_bytes == b""
    assert message in done.stderr.splitlines()[-1]


def test_a_full_disk_at_stdout_is_one_line(bundle: Path) -> None:
    words = ["-m", "flowsr_export", "upscale", str(bundle), "-", "--scale", "2", "-q"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, *words],
            input=png(6, 5),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    line = b"flowsr-export: -: stdout cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize("dry", [True, False])
def test_metadata_that_is_lost_is_named_once_and_before_the_model_runs(
    bundle: Path,
    tmp_path: Path,
    run: Run,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    dry: bool,
) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta>" + "h" * 70_000 + "</x:xmpmeta>")
    source = save(tmp_path / "a.png", 6, 5, pnginfo=texts)
    lines: list[list[str]] = []
    upscale = Upscaler.upscale

    def recorded(self: Upscaler, *words: Any, **options: Any) -> Any:
        lines.append(list(caplog.messages))
        return upscale(self, *words, **options)

    monkeypatch.setattr(Upscaler, "upscale", recorded)
    options = ("--scale", "2", *(["--dry-run"] if dry else []))
    done = run("upscale", bundle, source, "-o", tmp_path / "o.jpg", *options)
    assert done.exit_code == 0, done.stderr
    line = "JPEG holds no XMP of this size; it is not kept"
    assert caplog.messages == [line]
    assert lines == ([] if dry else [[line]])


def test_a_small_address_space_is_enough_for_tiles_that_stay_large(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    words = f"{sys.executable} -m flowsr_export upscale a.png -o o.png --scale 4 --threads 2"
    done = subprocess.run(
        ["sh", "-c", f"ulimit -v 500000 && exec {words} --provider cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert size_of(tmp_path / "o.png") == (1024, 1024)
    sizes = re.findall(r"going on with (\d+)x(\d+)", done.stderr)
    assert 1 <= len(sizes) <= 4  # without end before the arena was freed, down to 36x24
    assert min(int(side) for pair in sizes for side in pair) > 60
