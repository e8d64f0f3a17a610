"""Installed libraries, and the `doctor` command."""

import json
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from click.testing import Result

from flowsr_export.machine.libraries import LIBRARIES, find_library
from flowsr_runtime.installation import pip_command

Run = Callable[..., Result]

TENSORRT = next(library for library in LIBRARIES if library.module == "tensorrt")
ONNXRUNTIME = next(library for library in LIBRARIES if library.module == "onnxruntime")


def test_an_installed_library_has_its_version_and_providers() -> None:
    part = find_library(ONNXRUNTIME)
    assert part.version is not None
    assert part.version[0].isdigit()
    assert "CPUExecutionProvider" in part.providers


def test_the_version_is_the_one_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    # onnxruntime and onnxruntime-gpu may both be installed, and hold one module.
    monkeypatch.setattr("onnxruntime.__version__", "1.99")
    assert find_library(ONNXRUNTIME).version == "1.99"


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.importlib.util.find_spec", lambda name: None
    )
    part = find_library(TENSORRT)
    assert part.version is None
    assert part.remedy == pip_command("tensorrt")


def test_a_stub_does_not_pass_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.importlib.util.find_spec", lambda name: object()
    )
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    part = find_library(TENSORRT)
    assert part.version is None
    assert part.trouble == "a package of that name is installed but has no Builder"


def test_a_library_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError("libcudart.so.13: cannot open\nshared object file")

    monkeypatch.setattr("flowsr_export.machine.libraries.importlib.import_module", fail)
    part = find_library(ONNXRUNTIME)
    assert part.version is None
    assert part.trouble == "libcudart.so.13: cannot open shared object file"


def test_the_command_prints_every_part_and_the_device(run: Run) -> None:
    done = run("doctor")
    assert done.exit_code == 0
    headings = {line.split(maxsplit=1)[0] for line in done.stdout.splitlines() if line}
    assert {library.module for library in LIBRARIES} <= headings
    assert {"system", "processor", "memory"} <= headings


def test_the_command_begins_with_what_can_be_done(run: Run) -> None:
    lines = run("doctor").stdout.splitlines()
    assert lines[:2] == ["you can", "  upscale on the CPU"]
    assert "you cannot yet" in lines


def test_the_command_prints_one_json_object(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert "upscale on the CPU" in found["can"]
    assert {part["name"] for part in found["parts"]} == {
        *(library.module for library in LIBRARIES),
        "cudnn",
    }
    assert found["device"]["cores"] >= 1


def test_the_limits_of_a_container_and_the_telemetry_are_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "flowsr_export.machine.hardware"
    monkeypatch.setattr(f"{module}.os.sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(f"{module}.usable_cores", lambda: 2)
    monkeypatch.setattr(f"{module}.memory_limit", lambda *folders: 400 << 20)
    monkeypatch.setattr(f"{module}.memory_left", lambda *folders: 100 << 20)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
    lines = run("doctor").stdout.splitlines()
    assert "container     CPU quota of 2 of 4 cores, memory limit 0.4 GiB" in lines
    assert "telemetry     of ONNX Runtime off (ORT_DISABLE_TELEMETRY=1)" in lines
    assert any(line.endswith("0.4 GiB, 0.1 GiB available") for line in lines)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    found = json.loads(run("doctor", "--json").stdout)
    assert found["telemetry"] is True
    assert found["device"]["processors"] == 4
    assert found["device"]["memory_limit_bytes"] == 400 << 20
