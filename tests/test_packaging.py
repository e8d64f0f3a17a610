"""The wheel and the source archive: what they hold, built without a warning, twice the same."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "flowsr_calibration": ROOT / "calibration" / "flowsr_calibration",
    "flowsr_export": ROOT / "export" / "flowsr_export",
    "flowsr_lp": ROOT / "flowsr_lp",
    "flowsr_runtime": ROOT / "runtime" / "flowsr_runtime",
}
SKIPPED = (".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
EPOCH = "1700000000"  # any fixed time
BUILD = "from setuptools import build_meta; build_meta.build_{}({!r})"


@dataclass(frozen=True)
class Built:
    """What two builds of a clean tree made.

    Attributes:
        wheels: The wheel of each build.
        archive: The source archive.
        log: Everything that setuptools printed.
    """

    wheels: tuple[Path, Path]
    archive: Path
    log: str


def built_wheel(folder: Path, source: Path) -> tuple[Path, str]:
    log = build(source, "wheel", folder)
    shutil.rmtree(source / "build")
    return next(folder.glob("*.whl")), log


def build(source: Path, form: str, folder: Path) -> str:
    """Run the build as `python -m build` does, with the setuptools that is installed."""
    folder.mkdir(exist_ok=True)
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(form, str(folder))],
        cwd=source,
        env={**kept, "SOURCE_DATE_EPOCH": EPOCH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*SKIPPED))
    first, log = built_wheel(folder / "first", source)
    second, again = built_wheel(folder / "second", source)
    sdist = build(source, "sdist", folder / "sdist")
    return Built((first, second), next((folder / "sdist").iterdir()), log + again + sdist)


def test_the_wheel_holds_the_four_packages_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheels[0]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected


def test_the_licenses_of_the_shipped_photographs_are_in_the_metadata(built: Built) -> None:
    with zipfile.ZipFile(built.wheels[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        metadata = wheel.read(name).decode()
        for license_file in re.findall(r"^License-File: (.+)$", metadata, re.MULTILINE):
            held = wheel.read(f"{name.removesuffix('METADATA')}licenses/{license_file}")
            assert held == (ROOT / license_file).read_bytes()
    assert re.search(r"^License-Expression: .*CC-BY-4\.0 AND CC0-1\.0", metadata, re.MULTILINE)
    assert "License-File: export/flowsr_export/inputs/pictures/LICENSES.md" in metadata


def test_two_builds_give_the_same_wheel(built: Built) -> None:
    first, second = built.wheels
    assert first.read_bytes() == second.read_bytes()


def test_a_build_gives_no_warning(built: Built) -> None:
    assert not re.findall(r".*\bwarning\b.*", built.log, re.IGNORECASE)


def test_the_index_would_take_both_files(built: Built) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict"]
    done = subprocess.run(
        [*command, str(built.wheels[0]), str(built.archive)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_source_archive_holds_all_that_is_needed_to_test_it(built: Built) -> None:
    with tarfile.open(built.archive) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    skipped = shutil.ignore_patterns(*SKIPPED)
    needed = set()
    for folder, folders, names in os.walk(ROOT):
        ignored = skipped(folder, [*folders, *names])
        folders[:] = [name for name in folders if name not in ignored]
        place = Path(folder).relative_to(ROOT)
        needed |= {(place / name).as_posix() for name in names if name not in ignored}
    assert needed <= held


def test_the_base_install_is_three_libraries() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert re.findall(r'"(\w+)', block[1]) == ["click", "numpy", "pillow"]
