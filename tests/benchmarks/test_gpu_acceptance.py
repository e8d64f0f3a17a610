"""The acceptance script: its commands parse, its engines go together, its report holds all."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flowsr_export.cli import main

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_acceptance.sh"
# Stands for every program: says what it was given, and fails when it is told to verify. A
# benchmark writes its report where -o, the last option, says.
STAND_IN = """#!/bin/sh
[ "$1" = "--id=0" ] && { echo 1200; echo 3400; exec sleep 600; }
sleep 0.02
echo "ran $(basename "$0") $*"
case "$1 $*" in
    "verify "*) exit 3 ;;
    "bench "*) for last; do :; done; echo "bench's own report" > "$last.md" ;;
esac
"""


def script(*words: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script, with the programs of a folder before all others."""
    found = os.environ["PATH"] if path is None else f"{path}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PATH": found},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(program: str, *words: str) -> list[list[str]]:
    """Return the arguments of a program's commands."""
    lines = [shlex.split(line) for line in script("--dry-run", *words).stdout.splitlines()]
    return [line[1:] for line in lines if line[0] == program]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with a stand-in of each program that the script runs."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("flowsr-export", "python", "nvidia-smi"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_every_command_of_ours_parses(flavour: str) -> None:
    lines = commands("flowsr-export", "--flavor", flavour)
    assert {line[0] for line in lines} >= {"build-engine", "verify", "bench", "upscale"}
    for line in lines:
        command: click.Command = main
        context, words = click.Context(main), line
        while isinstance(command, click.Group):
            found = command.get_command(context, words[0])
            if found is None:  # a group with a default command
                found, words = command.get_command(context, "run"), ["run", *words]
            assert found is not None, line
            command, words = found, words[1:]
        assert command.make_context(command.name, words) or words == []


def test_the_pictures_and_modules_that_it_names_are_there() -> None:
    named = [
        word for line in commands("flowsr-export", "--flavor", "tensorrt") for word in line
    ]
    assert all((ROOT / word).is_file() for word in named if "pictures/" in word)
    modules = [line[1] for line in commands("python") if line[0] == "-m"]
    assert set(modules) == {"pytest", "benchmarks.stand_in_checkpoint"}
    assert ["-m", "pytest", "-q", "-m", "gpu", "tests"] in commands("python")


def test_the_shapes_of_its_engines_go_together(tmp_path: Path) -> None:
    lines = commands("flowsr-export", "--flavor", "tensorrt-rtx", "-o", str(tmp_path / "out"))
    builds = [line for line in lines if line[0] == "build-engine" and "--model" not in line]
    built_in = [
        [word for word in line if not word.endswith("built-in.bundle") and word != "-o"]
        for line in builds
        if any(word.endswith("built-in.bundle") for word in line)
    ]
    assert len(built_in) == 6
    for words in built_in:
        done = CliRunner().invoke(main, [*words, "--dry-run"])
        assert done.exit_code == 0, done.output


def test_a_run_goes_on_past_a_step_that_fails(tmp_path: Path, programs: Path) -> None:
    out = tmp_path / "out"
    done = script("-o", out, "--flavor", "tensorrt-rtx", path=programs)
    assert (done.returncode, done.stdout) == (1, f"{out}/report.md\n")
    report = (out / "report.md").read_text()
    assert re.search(r"^\| tests \| 0 \| \d+ \| ", report, re.MULTILINE)
    assert re.search(r"^\| built-in-fp16-verify-tensorrt_rtx \| 3 \| ", report, re.MULTILINE)
    assert "| 3400 |\n" in report  # the larger one of what was seen, where a step lasted
    assert "ran flowsr-export engines list" in report
    assert report.count("bench's own report") == 18
    assert len(list((out / "logs").glob("*.log"))) == len(
        script("--dry-run").stdout.splitlines()
    )


def test_nothing_is_overwritten(tmp_path: Path, programs: Path) -> None:
    done = script("-o", tmp_path, path=programs)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is there; name another folder with -o" in done.stderr


@pytest.mark.parametrize("words", [["--flavor", "cuda"], ["--flavor"], ["-o", ""], ["--fast"]])
def test_another_option_is_refused_with_the_usage(words: list[str]) -> None:
    done = script("--dry-run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: benchmarks/gpu_acceptance.sh [--dry-run]")


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    done = script("--dry-run", "-o", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []
