"""What is installed and what the machine is, read from files that the tests write."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import Result

from flowsr_export.machine import libraries as doctor
from flowsr_export.machine.libraries import WANTED, Device, look_at_device, look_for

Run = Callable[..., Result]

CPUINFO = """\
processor\t: 0
model name\t: Fast CPU 3000
flags\t\t: fpu sse4_2 avx2 fma avx512_vnni

processor\t: 1
model name\t: Fast CPU 3000
flags\t\t: fpu sse4_2 avx2 fma avx512_vnni
"""
MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n"
TENSORRT = next(wanted for wanted in WANTED if wanted.module == "tensorrt")
NUMPY = next(wanted for wanted in WANTED if wanted.module == "numpy")
ONNXRUNTIME = next(wanted for wanted in WANTED if wanted.module == "onnxruntime")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the kernel's files, on a machine without a GPU."""
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.os.sched_getaffinity", lambda process: set(range(8))
    )
    monkeypatch.setattr("flowsr_export.machine.libraries.shutil.which", lambda program: None)
    return tmp_path


def look(machine: Path) -> Device:
    return look_at_device(machine, machine)


def test_the_processor_and_the_memory_are_read(machine: Path) -> None:
    device = look(machine)
    assert device.cpu == "Fast CPU 3000"
    assert device.cores == 8
    assert device.instruction_sets == ("sse4_2", "avx2", "fma", "avx512_vnni")
    assert (device.memory_bytes, device.available_bytes) == (16384000000, 8192000000)
    assert device.gpus == ()


def test_limits_of_a_container_count(machine: Path) -> None:
    (machine / "memory.max").write_text("4000000000\n")
    (machine / "memory.current").write_text("1000000000\n")
    (machine / "cpu.max").write_text("250000 100000\n")
    device = look(machine)
    assert (device.memory_bytes, device.available_bytes) == (4000000000, 3000000000)
    assert device.cores == 2


def test_a_container_without_limits_changes_nothing(machine: Path) -> None:
    (machine / "memory.max").write_text("max\n")
    (machine / "cpu.max").write_text("max 100000\n")
    assert look(machine).cores == 8
    assert look(machine).memory_bytes == 16384000000


def test_a_machine_that_tells_nothing_is_borne(tmp_path: Path, machine: Path) -> None:
    device = look_at_device(tmp_path / "none", tmp_path / "none")
    assert device.cpu
    assert (device.memory_bytes, device.instruction_sets) == (None, ())


def test_cuda_devices_are_listed(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "NVIDIA H100, 9.0, 81559, 570.1\nNVIDIA L4, 8.9, 23034, 570.1\n"
    done = subprocess.CompletedProcess([], 0, stdout=answer)
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.shutil.which", lambda program: "/bin/nvidia-smi"
    )
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.subprocess.run", lambda *args, **options: done
    )
    first, second = look(machine).gpus
    assert first == doctor.Gpu("NVIDIA H100", "9.0", 81559, "570.1")
    assert second.compute_capability == "8.9"


def test_a_broken_nvidia_smi_is_borne(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.shutil.which", lambda program: "/bin/false"
    )
    assert look(machine).gpus == ()


def test_an_installed_library_has_its_version() -> None:
    part = look_for(NUMPY)
    assert part.version is not None
    assert part.version[0].isdigit()


def test_onnxruntime_says_its_providers() -> None:
    assert "CPUExecutionProvider" in look_for(ONNXRUNTIME).providers


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.importlib.util.find_spec", lambda name: None
    )
    part = look_for(TENSORRT)
    assert part.version is None
    assert part.remedy == "pip install 'flowsr-lp[tensorrt]'"


def test_a_stub_does_not_pass_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowsr_export.machine.libraries.importlib.util.find_spec", lambda name: object()
    )
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    part = look_for(TENSORRT)
    assert part.version is None
    assert part.trouble == "a package of that name is there but has no Builder"


def test_a_library_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ImportError("libcudart.so.13: cannot open\nshared object file")

    monkeypatch.setattr("flowsr_export.machine.libraries.importlib.import_module", fail)
    part = look_for(ONNXRUNTIME)
    assert part.version is None
    assert part.trouble == "libcudart.so.13: cannot open shared object file"


def test_the_command_prints_every_part_and_the_device(run: Run) -> None:
    done = run("doctor")
    assert done.exit_code == 0
    headings = {line.split(maxsplit=1)[0] for line in done.stdout.splitlines() if line}
    assert {wanted.module for wanted in WANTED} <= headings
    assert {"system", "processor", "memory"} <= headings


def test_the_command_prints_one_json_object(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert {part["name"] for part in found["parts"]} == {wanted.module for wanted in WANTED}
    assert found["device"]["cores"] >= 1
