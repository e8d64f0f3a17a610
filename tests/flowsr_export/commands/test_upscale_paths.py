"""The `upscale` command on the names and folders that people have."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from flowsr_runtime import write_bundle
from tests.flowsr_runtime.conftest import STAGED

Run = Callable[..., Result]

LONG = "a" * 300 + ".png"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; that of pytest is for its own user alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Act as an ordinary user, whom the permissions of files bind."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def make_image(path: Path) -> Path:
    Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(path)
    return path


def test_a_name_that_is_too_long_does_not_stop_the_others(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    done = run(
        "upscale", bundle, photo, tmp_path / LONG, "-o", tmp_path / "out", "--scale", "2"
    )
    assert done.exit_code == 5
    assert (tmp_path / "out" / f"{photo.stem}.png").is_file()
    assert done.stderr.splitlines()[-1].endswith("cannot be read: File name too long")


@pytest.mark.parametrize(
    "command", ["upscale {} -o o.png", "upscale a.png -o {}", "inspect {}"]
)
def test_a_name_that_is_too_long_is_one_line(
    command: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_image(tmp_path / "a.png")
    done = run(*command.format(LONG).split())
    assert done.exit_code in (1, 5)
    assert done.stderr.splitlines()[-1].endswith("File name too long")
    assert "Traceback" not in done.stderr


def open_to_all(bundle: Path) -> None:
    """Let every user into pytest's folders around a bundle, which are for their own user."""
    for folder in bundle.parents:
        if "pytest-of-" in str(folder):
            folder.chmod(0o755)


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_locked_file_or_folder_does_not_stop_the_others(
    bundle: Path, open_folder: Path, run: Run, mode: int
) -> None:
    good, locked = make_image(open_folder / "good.png"), open_folder / "locked"
    secret = make_image(open_folder / "secret.png")
    secret.chmod(0o000)
    locked.mkdir()
    make_image(locked / "inside.png")
    locked.chmod(mode)
    open_to_all(bundle)
    with as_nobody():
        options = ("-o", open_folder / "out", "--scale", "2")
        done = run("upscale", bundle, good, secret, locked, *options)
    assert done.exit_code == 5
    assert (open_folder / "out" / "good.png").is_file()
    lines = [line for line in done.stderr.splitlines() if "cannot be read" in line]
    assert [line.rpartition(": ")[2] for line in lines] == ["Permission denied"] * 2
    assert "Traceback" not in done.stderr


def test_an_output_in_a_locked_folder_is_one_line(
    bundle: Path, open_folder: Path, run: Run
) -> None:
    good, locked = make_image(open_folder / "good.png"), open_folder / "locked"
    locked.mkdir()
    locked.chmod(0o666)
    open_to_all(bundle)
    with as_nobody():
        done = run("upscale", bundle, good, "-o", locked / "o.png", "--scale", "2")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_a_name_that_is_not_text_is_shown_escaped(
    bundle: Path, tmp_path: Path, locale: str
) -> None:
    name = os.fsdecode(b"na\xefve.png")
    make_image(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-m", "flowsr_export", "upscale", bundle, tmp_path, "-o", "out"],
        cwd=tmp_path,
        env={**os.environ, "LC_ALL": locale, "PYTHONIOENCODING": ""},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert rb"out/na\udcefve.png" in done.stdout
    assert (tmp_path / "out" / name).is_file()


def test_hidden_files_and_files_of_other_kinds_are_left_out_and_counted(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make_image(folder / "a.png")
    make_image(folder / "b.png").rename(folder / "b.jfif")
    for name in ("._a.png", ".hidden.jpg", "c.psd", "d.PSD", "e.heic", "notes"):
        (folder / name).write_bytes(b"8BPS")
    arguments = ("upscale", bundle, folder, "-o", tmp_path / "out", "--scale", "2")
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert content["other_files"] == {"PSD": 2, "HEIC": 1, "without a suffix": 1}
    assert content["pictures"] == 2
    done = run(*arguments, "--force")
    assert "left out 4 files of other kinds (2 PSD, 1 HEIC, 1 without a suffix)" in done.stderr


def test_a_photo_with_opaque_alpha_becomes_a_jpeg(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    Image.new("RGBA", (6, 5), (9, 9, 9, 255)).save(tmp_path / "a.png")
    done = run("upscale", bundle, tmp_path / "a.png", "-o", tmp_path / "a.jpg", "--scale", "2")
    assert done.exit_code == 0, done.stderr
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.mode, image.size) == ("RGB", (12, 10))


def test_existing_outputs_can_be_kept_and_the_missing_ones_made(
    bundle: Path, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    make_image(folder / "a.png")
    arguments = ("upscale", bundle, folder, "-o", tmp_path / "out", "--scale", "2")
    assert run(*arguments).exit_code == 0
    kept = (tmp_path / "out" / "a.png").read_bytes()
    make_image(folder / "b.png")
    done = run(*arguments, "--skip-existing")
    assert done.exit_code == 0, done.stderr
    assert "1 made, 1 was there, " in done.stdout
    assert (tmp_path / "out" / "a.png").read_bytes() == kept
    content = json.loads(run(*arguments, "--skip-existing", "--json").stdout)
    assert (content["pictures"], len(content["skipped"]), content["failures"]) == (0, 2, [])
    done = run(*arguments, "--skip-existing", "--force")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


def test_heic_is_named(bundle: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "IMG_1.heic"
    path.write_bytes((24).to_bytes(4, "big") + b"ftypmif1\0\0\0\0mif1heic" + bytes(64))
    done = run("upscale", path, "-o", tmp_path / "o.png", "--scale", "2")
    assert (done.exit_code, done.stderr.count("\n")) == (5, 1)
    assert "IMG_1.heic is HEIC, not a PNG, JPEG" in done.stderr


def test_several_scales_write_an_image_each_beside_the_photo(
    bundle: Path, photo: Path, run: Run
) -> None:
    done = run("upscale", bundle, photo, "--scale", "1.5,2,2x3")
    assert done.exit_code == 0, done.stderr
    names = [f"{photo.stem}_x{scale}.png" for scale in ("1.5", "2", "2x3")]
    assert [Path(line.split("  ")[0]).name for line in done.stdout.splitlines()[:3]] == names
    sizes = {}
    for name in names:
        with Image.open(photo.with_name(name)) as image:
            sizes[name] = image.size
    assert [*sizes.values()] == [(9, 8), (12, 10), (12, 15)]
    assert done.stderr.count("scales run one by one: ") == 1


def test_several_scales_of_a_named_output_and_of_a_folder(
    bundle: Path, photo: Path, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "folder").mkdir()
    for output in (tmp_path / "large.png", tmp_path / "folder"):
        assert run("upscale", bundle, photo, "-o", output, "--scale", "2,3").exit_code == 0
    made = [tmp_path / "large_x2.png", tmp_path / "large_x3.png"]
    made += [tmp_path / "folder" / f"{photo.stem}_x{scale}.png" for scale in (2, 3)]
    assert [path.is_file() for path in made] == [True] * 4


def test_a_bundle_with_stages_shares_the_encoder_in_silence(
    photo: Path, tmp_path: Path, run: Run
) -> None:
    bundle = write_bundle(tmp_path / "staged", *STAGED).path
    several = run("upscale", bundle, photo, "-o", tmp_path / "a.png", "--scale", "2,3")
    alone = run("upscale", bundle, photo, "-o", tmp_path / "b.png", "--scale", "3")
    assert (several.exit_code, alone.exit_code) == (0, 0)
    assert "one by one" not in several.stderr
    assert (tmp_path / "a_x3.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_dry_run_plans_every_scale(bundle: Path, photo: Path, run: Run) -> None:
    done = run("upscale", bundle, photo, "--scale", "2,3", "--dry-run", "--json")
    planned = json.loads(done.stdout)["planned"]
    assert [(row["width"], row["height"]) for row in planned] == [(12, 10), (18, 15)]
