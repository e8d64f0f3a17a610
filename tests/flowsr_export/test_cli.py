"""The group: lazy commands, and errors turned into one line and an exit code."""

import importlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from flowsr_export import cli
from flowsr_export.machine.extras import EXTRAS, NEEDS
from flowsr_runtime import errors
from flowsr_runtime.installation import pip_command

HEAVY = {"numpy", "torch", "onnx", "onnxruntime", "PIL", "flowsr_runtime", "flowsr_lp"}
HEAVY |= {"fastapi", "uvicorn", "prometheus_client"}
# What `export-onnx` needs; jinja2, polygraphy and yaml are for reports, comparing layers and
# settings of training alone.
EXPORT_LIBRARIES = [
    name
    for name, extra in EXTRAS.items()
    if extra in ("cpu", "export") and name not in ("jinja2", "polygraphy", "yaml")
]

NAMES = [name for names in cli.COMMANDS.values() for name in names]

Raising = Callable[[BaseException], Result]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Raising:
    """Run a command that raises what it is given."""

    def run(error: BaseException) -> Result:
        @click.command("doctor")
        @click.option("--most-memory", "-m", "max_memory")
        def command(max_memory: str | None) -> None:
            raise error

        module = SimpleNamespace(command=command)
        monkeypatch.setattr(importlib, "import_module", lambda name: module)
        return CliRunner().invoke(cli.main, ["doctor"])

    return run


def test_help_loads_no_heavy_library() -> None:
    program = (
        "import sys; from flowsr_export.cli import main; main(['--help'], standalone_mode=0)"
    )
    program += "; print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert set(done.stderr.split()) & HEAVY == set()


def test_help_names_every_command_and_every_exit_code() -> None:
    text = CliRunner().invoke(cli.main, ["--help"]).stdout
    assert all(f"\n  {name} " in text for name in NAMES)
    assert all(f"\n    {code} " in text for code in (0, 1, 2, 3, 4, 5, 6, 7, 130))


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_a_help_with_an_example(name: str) -> None:
    done = CliRunner().invoke(cli.main, [name, "--help"])
    assert done.exit_code == 0
    assert f"flowsr-export {name}" in done.stdout


def test_an_error_about_an_argument_names_its_flag(raising: Raising) -> None:
    done = raising(errors.UsageError("max_memory is 0", option="max_memory"))
    assert done.stderr == "flowsr-export: max_memory is 0 (--most-memory)\n"
    done = raising(errors.UsageError("scale is 0", option="scale"))
    assert done.stderr == "flowsr-export: scale is 0\n"


def test_a_missing_engine_comes_with_the_command_that_builds_it(raising: Raising) -> None:
    error = errors.BundleError("no engine")
    vars(error)["build"] = {
        **{"bundle": "a b", "flavour": "tensorrt_rtx", "precision": "fp16", "halo": "exact"},
        **{"lr_size": (12, 16), "scale": (2, 2.5), "memory_budget": 1024},
    }
    assert raising(error).stderr.endswith(
        "; flowsr-export build-engine 'a b' --flavor tensorrt-rtx --precision fp16 "
        "--max-memory 1024 --halo exact --lr-size 16x12 --scale 2.5x2\n"
    )
    shapes = {"min": (1, 3, 8, 8), "opt": (1, 3, 9, 9), "max": (1, 3, 9, 9)}
    vars(error)["build"] = {"bundle": "b", "flavour": "tensorrt", "shapes": shapes}
    assert "--min-shapes input:1x3x8x8 --opt-shapes input:1x3x9x9" in raising(error).stderr


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "FlowsrError"])
def test_an_error_becomes_one_line_and_its_code(name: str, raising: Raising) -> None:
    error = getattr(errors, name)
    done = raising(error("scale must be above 1,\n  got 0.5"))
    assert done.exit_code == error.exit_code
    assert done.stderr == "flowsr-export: scale must be above 1, got 0.5\n"
    assert done.stdout == ""


def test_an_interruption_ends_with_130(raising: Raising) -> None:
    done = raising(KeyboardInterrupt())
    assert (done.exit_code, done.stderr) == (130, "flowsr-export: interrupted\n")


def test_memory_that_runs_out_ends_with_6(raising: Raising) -> None:
    done = raising(MemoryError())
    assert (done.exit_code, done.stderr) == (6, "flowsr-export: out of memory\n")


@pytest.mark.parametrize(
    "words",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.",
        "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1.00 GiB free",
    ],
)
def test_memory_that_pytorch_lacks_ends_with_6(words: str, raising: Raising) -> None:
    done = raising(RuntimeError(words))
    assert (done.exit_code, done.stderr) == (6, "flowsr-export: out of memory\n")


def test_a_library_that_does_not_load_says_why(raising: Raising) -> None:
    done = raising(ImportError("libcudart.so.13: no such\nfile", name="torch._C"))
    line = "flowsr-export: torch cannot be loaded: libcudart.so.13: no such file\n"
    assert (done.exit_code, done.stderr) == (4, line)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("a bug"),
        RuntimeError("a bug"),
        ModuleNotFoundError("No module named 'flowsr_export.typo'", name="flowsr_export.typo"),
    ],
)
def test_a_bug_keeps_its_traceback(error: Exception, raising: Raising) -> None:
    assert raising(error).exception is error


def run_without(
    libraries: Iterable[str], arguments: Iterable[str]
) -> subprocess.CompletedProcess[str]:
    """Run the program where some libraries are not installed."""
    program = f"import sys; sys.modules.update(dict.fromkeys({list(libraries)}))"
    program += "; from flowsr_export.cli import main; main()"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "library"),
    [
        *(("export-onnx --model a.pth -o out", name) for name in EXPORT_LIBRARIES),
        ("bench -o out", "matplotlib"),
        ("serve bundle", "fastapi"),
        ("serve bundle", "uvicorn"),
        ("serve bundle", "prometheus_client"),
        ("verify bundle", "torch"),
        ("verify bundle", "onnx"),
        ("train flow --images . -o out", "torch"),
        ("train flow --images . -o out", "safetensors"),
        ("train prior --model a --vgg b --images . -o out", "torch"),
        ("upscale bundle photo.png -o out.png --scale 2", "onnxruntime"),
        ("demo --bundle bundle -o out", "onnxruntime"),
    ],
)
def test_a_missing_library_is_one_line_with_the_command_that_installs_it(
    arguments: str,
    library: str,
    bundle: Path,
    photo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_without([library], arguments.split())
    remedy = pip_command(EXTRAS[library])
    assert done.stderr == f"flowsr-export: {library} is not installed; {remedy}\n"
    assert (done.returncode, done.stdout) == (4, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "photo.png"]


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        ("export-onnx --model a.pth -o out", ["cpu", "export"]),
        ("calibrate --images . -o out", ["bench", "cpu", "export"]),
        ("verify bundle", ["cpu", "export"]),
        ("bench bundle -o out", ["bench", "cpu", "export"]),
        ("serve bundle --port 0", ["cpu", "serve"]),
        ("train flow --images . -o out", ["export"]),
    ],
)
def test_all_missing_libraries_are_named_at_once(
    arguments: str,
    extras: list[str],
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_without(EXTRAS, arguments.split())
    names, verb, remedy = done.stderr.partition(" are not installed; ")
    named = set(names.removeprefix("flowsr-export: ").replace(" and ", ", ").split(", "))
    assert verb, done.stderr
    assert set(NEEDS[arguments.split()[0]]) <= named
    assert remedy == f"{pip_command(*extras)}\n"
    assert (done.returncode, done.stdout) == (4, "")


@pytest.mark.parametrize("arguments", ["inspect bundle", "doctor", "train flow --help"])
def test_the_base_install_does_what_needs_no_other_library(
    arguments: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_without(EXTRAS, arguments.split())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("sharpen", "No such command 'sharpen'; see flowsr-export --help"),
        ("doctor --quick", "No such option"),
        ("demo --threads 0", "Invalid value for '--threads': 0 is not in the range x>=1; see "),
        ("train flow", "Missing option '--images'; see flowsr-export train flow --help"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: str, line: str) -> None:
    done = CliRunner().invoke(cli.main, arguments.split(), prog_name="flowsr-export")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"flowsr-export: {line}")
    assert done.stderr.count("\n") == 1


def test_a_group_without_a_command_shows_its_help() -> None:
    done = CliRunner().invoke(cli.main, ["train"])
    assert done.exit_code == 2
    assert "Train a flow by maximum likelihood." in done.stderr


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(cli.main, ["--version"]).stdout == "flowsr-export 0.1.0\n"


def test_a_closed_pipe_gives_no_traceback() -> None:
    program = "from flowsr_export.cli import main; main(['doctor'])"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("module", "error"), [("PIL.TiffImagePlugin", type(None)), ("numpy.linalg", UserWarning)]
)
def test_what_pillow_remarks_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, module: str, error: type[object]
) -> None:
    @click.command("doctor")
    def command() -> None:
        warnings.warn_explicit("Truncated File Read", UserWarning, "file.py", 1, module=module)

    loaded = SimpleNamespace(command=command)
    monkeypatch.setattr("flowsr_export.cli.importlib.import_module", lambda name: loaded)
    done = CliRunner().invoke(cli.main, ["doctor"])
    assert isinstance(done.exception, error)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
def test_a_closed_stream_stops_no_command(tmp_path: Path, closed: str) -> None:
    program = "from flowsr_export.cli import main; main()"
    arguments = f"completion bash {closed}"
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -c '{program}' {arguments}"], check=False
    )
    assert done.returncode == 0


def test_a_full_disk_behind_stdout_is_one_line() -> None:
    program = "from flowsr_export.cli import main; main(['completion', 'bash'])"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr == b"flowsr-export: No space left on device\n"


@pytest.mark.parametrize(
    ("error", "line", "exit_code"),
    [
        (RuntimeError("can't start new thread"), "the system allows no more threads", 6),
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied", 5),
        (OSError(36, "File name too long", "b"), "b: File name too long", 5),
        (OSError(28, "No space left on device", "c"), "c: No space left on device", 1),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory", 6),
        (OSError(24, "Too many open files"), "Too many open files", 1),
    ],
)
def test_an_error_of_the_system_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, line: str, exit_code: int
) -> None:
    @click.command("doctor")
    def command() -> None:
        raise error

    loaded = SimpleNamespace(command=command)
    monkeypatch.setattr("flowsr_export.cli.importlib.import_module", lambda name: loaded)
    done = CliRunner().invoke(cli.main, ["doctor"])
    assert done.exit_code == exit_code
    assert done.stderr.startswith(f"flowsr-export: {line}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("given", [None, "0"])
@pytest.mark.parametrize("module", ["flowsr_export", "flowsr_runtime"])
def test_the_telemetry_of_onnx_runtime_is_off_unless_the_user_set_it(
    module: str, given: str | None
) -> None:
    name = "ORT_DISABLE_TELEMETRY"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment |= {} if given is None else {name: given}
    main = "cli" if module == "flowsr_export" else "__main__"
    program = (
        "import os, sys\n"
        f"from {module}.{main} import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        f"print(os.environ['{name}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == (given or "1")
