"""The acceptance script: its commands parse, it goes on past failures, its table holds all."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks.acceptance import main as acceptance
from benchmarks.acceptance import table
from flowsr_export.cli import main
from flowsr_runtime.pictures.files import read_picture
from tests.flowsr_export.bench.benchmarks import report, row

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_acceptance.sh"
# Stands for every program: says what it was given. Python fails to verify, is slow to inspect,
# and has no TensorRT; the table is made by the real one.
STAND_IN = """#!/bin/sh
case "$*" in
    *memory.used*) echo 1200; echo 3400; exec sleep 600 ;;
    *list-gpus*) echo "GPU 0"; exit ;;
    *"acceptance table"*) exec "$REAL_PYTHON" "$@" ;;
    *"import tensorrt"*) exit 1 ;;
    *" verify "*) exit 3 ;;
    *" inspect "*) sleep 20 ;;
esac
sleep 0.02
echo "ran $(basename "$0") $*"
"""


def script(
    *words: object, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script, with the programs of a folder before all others."""
    found = os.environ["PATH"] if path is None else f"{path}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "PATH": found, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def commands(device: str) -> list[list[str]]:
    """Return the words of every command of a dry run."""
    done = script("--dry-run", DEVICE=device)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def modules(device: str, name: str) -> list[list[str]]:
    """Return the arguments of the commands that run a module."""
    lines = [line for line in commands(device) if line[:2] == ["python", "-m"]]
    return [line[3:] for line in lines if line[2] == name]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in of each program that the script runs."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("python", "nvidia-smi"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("REAL_PYTHON", sys.executable)
    return folder


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_command_of_ours_parses(device: str) -> None:
    lines = modules(device, "flowsr_export")
    assert {line[0] for line in lines} >= {
        *("export-onnx", "calibrate", "doctor", "upscale", "inspect", "verify", "bench"),
        *("build-engine", "engines"),
    }
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


def test_it_covers_what_a_gpu_has_to_show() -> None:
    text = script("--dry-run").stdout
    for words in (
        "-m pytest -q -m gpu",
        "--no-self-test",
        "--tf32",
        "--precision int8",
        "--cuda-graphs 2",
        "--streams 1\\,2\\,4",
        "--backend torch-compiled --backend published-compiled",
        "--lr-size 128x128 --lr-size 480x270",
        "short-of-memory",
        "--devices 0\\,1",
        "bench serve",
        "build-engine",
        "--flavor inductor --device cuda --precision fp16 --lr-size 480x270 --scale 4 --exact",
        "--exact --no-kernels",
        "--backend inductor --backend published-compiled",
        "benchmarks.engine_kernels build/gpu-acceptance/inductor-edsr-plain.bundle",
    ):
        assert words in text, words


def test_the_files_and_modules_that_it_names_are_there() -> None:
    lines = commands("cuda")
    named = [word for line in lines for word in line if word.startswith("export/")]
    assert named
    assert all((ROOT / word).exists() for word in named)
    used = {line[2] for line in lines if line[:2] == ["python", "-m"]}
    assert used == {
        *("pytest", "flowsr_export", "benchmarks.acceptance"),
        *("benchmarks.stand_in_checkpoint", "benchmarks.engine_kernels"),
    }
    for line in modules("cuda", "benchmarks.acceptance"):
        command = acceptance.get_command(click.Context(acceptance), line[0])
        assert command is not None
        assert command.make_context(line[0], line[1:])


def test_a_run_goes_on_past_steps_that_fail_or_last_too_long(
    tmp_path: Path, programs: Path
) -> None:
    out, bundles = tmp_path / "out", tmp_path / "bundles"
    words = ("-o", out, "--bundles", bundles)
    done = script(*words, path=programs, BUDGET="12")
    assert done.returncode == 1
    lines = {line.split(" | ")[0].strip("| "): line for line in done.stdout.splitlines()}
    assert re.fullmatch(r"\| doctor \| ok \| \d+ \| (3400)? \|", lines["doctor"])
    assert "| FAILED: longer than " in lines["verdicts"]
    assert "| NOT RUN: no time is left |" in lines["bench-edsr"]
    assert "skipped: there are no two GPUs" in lines["two-devices"]
    assert "skipped: tensorrt is not installed" in lines["engines"]
    assert done.stdout == (out / "table.md").read_text()
    assert "ran python -m flowsr_export doctor" in (out / "logs" / "doctor.log").read_text()


def test_a_step_that_fails_is_in_the_table_with_its_code(
    tmp_path: Path, programs: Path
) -> None:
    stand_in = STAND_IN.replace("sleep 20", "true")
    (programs / "python").write_text(stand_in)
    done = script(
        "-o", tmp_path / "out", "--bundles", tmp_path / "b", path=programs, DEVICE="cpu"
    )
    assert done.returncode == 1
    failed = re.findall(r"^\| (\S+) \| FAILED: exit code 3 \|", done.stdout, re.MULTILINE)
    verified = ["verify-fp32", "verify-fp16-small", "verify-fp16-edsr", "verify-int8"]
    assert failed == ["inductor-verify", *verified]
    assert "| out-of-memory | skipped: needs a GPU |" in done.stdout
    steps = [line for line in done.stdout.splitlines() if " | ok | " in line]
    assert len(steps) > 20


def test_bundles_are_prepared_once(tmp_path: Path, programs: Path) -> None:
    bundles = tmp_path / "bundles"
    for name in ("linf", "small.bundle", "edsr.bundle"):
        (bundles / name).mkdir(parents=True)
    words = ("--prepare", "--bundles", bundles)
    done = script(*words, "-o", tmp_path / "out", path=programs)
    assert done.returncode == 0
    made = re.findall(r"^\| (make-\S+) \| ok", done.stdout, re.MULTILINE)
    assert made == ["make-small-fixed.bundle", "make-edsr-fixed.bundle", "make-int8.bundle"]
    assert "doctor" not in done.stdout


def test_nothing_is_overwritten(tmp_path: Path, programs: Path) -> None:
    done = script("-o", tmp_path, path=programs)
    assert (done.returncode, done.stdout) == (1, "")
    assert "exists; name another folder with -o" in done.stderr


@pytest.mark.parametrize("words", [["--wheels", "nowhere"], ["-o", ""], ["-o"], ["--fast"]])
def test_another_option_is_refused_with_the_usage(words: list[str]) -> None:
    done = script("--dry-run", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: gpu_acceptance.sh [--prepare | --dry-run]")


def test_another_device_is_refused() -> None:
    assert script("--dry-run", DEVICE="tpu").returncode == 2


def test_a_dry_run_makes_nothing(tmp_path: Path) -> None:
    done = script("--dry-run", "-o", tmp_path / "out", "--bundles", tmp_path / "bundles")
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_the_rows_of_the_benchmarks(tmp_path: Path) -> None:
    (tmp_path / "steps.tsv").write_text("doctor\tok\t3\t\nbench-a\tok\t9\t512\n", "utf-8")
    rows = [row([0.01] * 5, joules_per_megapixel=0.25), row([0.02] * 5, streams=2)]
    measured = report(rows, not_started={"onnxruntime cuda fp16": "no such device"})
    (tmp_path / "bench-a.json").write_text(json.dumps(measured.as_dict()), "utf-8")
    lines = table(tmp_path).splitlines()
    assert lines[2] == "| doctor | ok | 3 |  |"
    assert lines[3] == "| bench-a | ok | 9 | 512 |"
    assert "10 ms, 1 MP/s, efficiency 0.50, 0.25 J/MP" in lines[4]
    assert ", graph, 2 streams, " in lines[5]
    assert "did not start: no such device" in lines[6]


def test_pictures_are_copies_of_one_in_a_size(tmp_path: Path) -> None:
    photo = ROOT / "export/flowsr_export/inputs/pictures/chelsea_256.png"
    words = ["pictures", str(photo), str(tmp_path / "many"), "--count", "3", "--size", "32x18"]
    assert CliRunner().invoke(acceptance, words).exit_code == 0
    pictures = [read_picture(path) for path in sorted((tmp_path / "many").iterdir())]
    assert [picture.pixels.shape for picture in pictures] == [(18, 32, 3)] * 3
