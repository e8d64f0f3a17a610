"""The group: lazy commands, and errors turned into one line and an exit code."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from flowsr_export import cli
from flowsr_runtime import errors

HEAVY = {"numpy", "torch", "onnx", "onnxruntime", "PIL", "flowsr_runtime", "flowsr_lp"}

Raising = Callable[[BaseException], Result]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Raising:
    """Run a command that raises what it is given."""

    def run(error: BaseException) -> Result:
        @click.command("doctor")
        def command() -> None:
            raise error

        module = SimpleNamespace(command=command)
        monkeypatch.setattr("flowsr_export.cli.importlib.import_module", lambda name: module)
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
    assert all(f"\n  {name} " in text for name in cli.COMMAND_MODULES)
    assert all(f"\n    {code} " in text for code in (0, 1, 2, 3, 4, 5, 6, 130))


@pytest.mark.parametrize("name", list(cli.COMMAND_MODULES))
def test_every_command_has_a_help_with_an_example(name: str) -> None:
    done = CliRunner().invoke(cli.main, [name, "--help"])
    assert done.exit_code == 0
    assert f"flowsr-export {name}" in done.stdout


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


def test_a_bug_keeps_its_traceback(raising: Raising) -> None:
    assert isinstance(raising(ZeroDivisionError("a bug")).exception, ZeroDivisionError)


def test_an_unknown_command_is_a_usage_error() -> None:
    done = CliRunner().invoke(cli.main, ["sharpen"])
    assert done.exit_code == 2
    assert "No such command 'sharpen'" in done.stderr


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
