"""Missing libraries: all that a command needs, named at once."""

import sys

import pytest

from flowsr_export.cli import COMMAND_MODULES
from flowsr_export.machine.extras import EXTRAS, NEEDS, lacking
from flowsr_runtime import BackendError
from flowsr_runtime.installation import pip_command


def test_every_need_has_an_extra_and_a_command() -> None:
    assert set(NEEDS) <= set(COMMAND_MODULES)
    assert {name for names in NEEDS.values() for name in names} <= set(EXTRAS)


def test_all_missing_libraries_are_named_with_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("fastapi", "uvicorn", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    error = ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
    assert lacking(error, "serve") == (
        "uvicorn, fastapi and onnxruntime are not installed; " + pip_command("cpu", "serve")
    )


def test_the_cause_of_an_error_of_the_runtime_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    error = BackendError("onnxruntime is not installed")
    error.__cause__ = ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
    assert lacking(error, "upscale") == f"onnxruntime is not installed; {pip_command('cpu')}"


def test_a_library_that_does_not_load_says_why() -> None:
    error = ImportError("libcudart.so.13: no such file", name="torch._C")
    assert lacking(error, "verify") == "torch cannot be loaded: libcudart.so.13: no such file"


@pytest.mark.parametrize("name", ["flowsr_export.typo", None])
def test_a_bug_is_not_a_missing_library(name: str | None) -> None:
    assert lacking(ModuleNotFoundError("no", name=name), "serve") is None
