"""Commands in a container: a CPU quota, a memory limit, no home, nothing to write to."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from flowsr_runtime import embedded_bundle
from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.tiling.cgroups import cgroups

Done = subprocess.CompletedProcess[str]

MEMORY: Final = 400 << 20
COMMAND: Final = [sys.executable, "-m", "flowsr_export"]
KILLED: Final = (-9, 137)

THREADS: Final = """
import os, sys
from flowsr_runtime import Upscaler
with Upscaler.open(threads=int(sys.argv[1]) or None, provider="cpu") as upscaler:
    print(len(os.listdir("/proc/self/task")))
"""

SEALED: Final = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$WORK"
cp "$PHOTO" "$WORK/photo.png"
mount -o remount,bind,ro /
cd "$WORK"
setpriv $USER_OPTIONS env -i PATH="$PATH" TMPDIR="$WORK" "$@"
sha256sum photo_x2.png
"""

NOBODY: Final = "--reuid 65534 --regid 65534 --clear-groups"
BOUND: Final = "--bounding-set -all --inh-caps -all --no-new-privs"  # root without privileges


def own_cgroup(controller: str, limit: str) -> Iterator[Path]:
    """Make a cgroup below that of this process, and remove it; skip where it cannot be."""
    parent = next((each for each in cgroups(controller) if (each / limit).is_file()), None)
    if parent is None:
        parent = next((each for each in cgroups(controller) if each.is_dir()), None)
    folder = (parent or Path("/none")) / f"flowsr-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup of {controller} can be made: {error.strerror}")
    try:
        if not (folder / limit).is_file():
            pytest.skip(f"cgroups here have no {limit}")
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


def run_in(folder: Path, command: list[str], **environment: str) -> Done:
    """Run a command in a cgroup."""
    join = f'echo $$ > "{folder}/cgroup.procs" && exec "$@"'
    return subprocess.run(
        ["sh", "-c", join, "sh", *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def one_core() -> Iterator[Path]:
    """A cgroup with a quota of one CPU."""
    name = "cpu.max" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else ""
    for folder in own_cgroup("cpu", name or "cpu.cfs_quota_us"):
        if name:
            (folder / name).write_text("100000 100000")
        else:
            (folder / "cpu.cfs_period_us").write_text("100000")
            (folder / "cpu.cfs_quota_us").write_text("100000")
        yield folder


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A cgroup with a memory limit of 400 MiB."""
    name = "memory.max" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else ""
    for folder in own_cgroup("memory", name or "memory.limit_in_bytes"):
        (folder / (name or "memory.limit_in_bytes")).write_text(str(MEMORY))
        yield folder


@pytest.fixture
def photo_of(tmp_path: Path) -> Callable[[int], Path]:
    """Save a square of noise with a side."""

    def save(side: int) -> Path:
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{side}.png")
        return tmp_path / f"{side}.png"

    return save


def test_a_quota_of_one_cpu_starts_the_threads_of_one(one_core: Path) -> None:
    if usable_cores() < 2:
        pytest.skip("this machine has one core")
    counts = [
        int(run_in(folder, [sys.executable, "-c", THREADS, threads]).stdout)
        for folder, threads in ((one_core, "0"), (one_core, "1"))
    ]
    free = subprocess.run(
        [sys.executable, "-c", THREADS, "0"], capture_output=True, text=True, check=True
    )
    assert counts[0] == counts[1] < int(free.stdout)


def test_the_doctor_says_the_quota(one_core: Path) -> None:
    done = run_in(one_core, [*COMMAND, "doctor", "--json"])
    device = json.loads(done.stdout)["device"]
    assert device["cores"] == 1
    assert device["processors"] >= 1


def test_a_picture_that_fits_in_tiles_is_made_within_a_memory_limit(
    little_memory: Path, photo_of: Callable[[int], Path], tmp_path: Path
) -> None:
    words = ["upscale", photo_of(320), "-o", tmp_path / "o.png", "--scale", "4"]
    done = run_in(little_memory, [*COMMAND, *map(str, words), "--dry-run", "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["planned"][0]["tiles"] > 1
    done = run_in(little_memory, [*COMMAND, *map(str, words)])
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "o.png") as image:
        assert image.size == (1280, 1280)


def test_a_picture_that_needs_more_than_the_limit_is_refused_and_nothing_is_killed(
    little_memory: Path, photo_of: Callable[[int], Path], tmp_path: Path
) -> None:
    words = ["upscale", photo_of(1600), photo_of(64), "-o", tmp_path / "out", "--scale", "4"]
    done = run_in(little_memory, [*COMMAND, *map(str, words)])
    assert done.returncode not in KILLED
    assert done.returncode == 6
    refusal = done.stderr.splitlines()[-1]
    assert "1600x1600 to 6400x6400 needs about 0.6 GiB, and" in refusal
    assert (tmp_path / "out" / "64.png").is_file()
    assert not (tmp_path / "out" / "1600.png").exists()


def test_a_command_needs_no_home_no_root_and_no_disk(
    photo_of: Callable[[int], Path], tmp_path: Path
) -> None:
    for tool in ("unshare", "setpriv"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    enter = ["unshare", "-m", "setpriv"]
    python = ["env", sys.executable, "-c", "import click"]
    users = [
        options
        for options in (NOBODY, BOUND)
        if subprocess.run([*enter, *options.split(), *python], check=False).returncode == 0
    ]
    if not users:
        pytest.skip("no namespace of mounts can be made")
    work = tmp_path / "work"
    work.mkdir()
    for folder in tmp_path.parents:
        if "pytest-of-" in str(folder):
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    command = [*COMMAND, "upscale", str(embedded_bundle()), "photo.png", "--scale", "2"]
    given = {"WORK": str(work), "PHOTO": str(photo_of(64)), "USER_OPTIONS": users[0]}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", SEALED, "sh", *command],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "photo_x2.png  128x128" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("  photo_x2.png")
    assert "Traceback" not in done.stderr
