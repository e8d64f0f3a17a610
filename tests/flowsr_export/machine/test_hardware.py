"""The machine, read from files that the tests write."""

import subprocess
from pathlib import Path

import pytest

from flowsr_export.machine.hardware import Device, read_device
from flowsr_export.machine.nvidia_smi import Gpu, gpu_clocks, used_gpu_bytes

CPUINFO = """\
processor\t: 0
model name\t: Fast CPU 3000
flags\t\t: fpu sse4_2 avx2 fma avx512_vnni

processor\t: 1
model name\t: Fast CPU 3000
flags\t\t: fpu sse4_2 avx2 fma avx512_vnni
"""
MEMINFO = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    8000000 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the kernel's files, on a machine without a GPU."""
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr("flowsr_export.machine.hardware.usable_cores", lambda: 8)
    monkeypatch.setattr("flowsr_export.machine.nvidia_smi.shutil.which", lambda program: None)
    return tmp_path


def look(machine: Path) -> Device:
    return read_device(machine, machine)


def test_the_processor_and_the_memory_are_read(machine: Path) -> None:
    device = look(machine)
    assert device.cpu == "Fast CPU 3000"
    assert device.cores == 8
    assert device.instruction_sets == ("sse4_2", "avx2", "fma", "avx512_vnni")
    assert (device.memory_bytes, device.available_bytes) == (16384000000, 8192000000)
    assert device.gpus == ()


@pytest.mark.parametrize(
    ("limit", "memory"),
    [("4000000000", (4000000000, 3000000000)), ("max", (16384000000, 8192000000))],
)
def test_limits_of_a_container_count(
    machine: Path, limit: str, memory: tuple[int, int]
) -> None:
    (machine / "memory.max").write_text(f"{limit}\n")
    (machine / "memory.current").write_text("1000000000\n")
    device = look(machine)
    assert (device.memory_bytes, device.available_bytes) == memory
    assert device.memory_limit_bytes == (None if limit == "max" else int(limit))


def test_a_machine_that_tells_nothing_is_borne(tmp_path: Path, machine: Path) -> None:
    device = read_device(tmp_path / "none", tmp_path / "none")
    assert device.cpu
    assert (device.memory_bytes, device.instruction_sets) == (None, ())


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list whose text nvidia-smi prints."""
    text: list[str] = []
    monkeypatch.setattr("shutil.which", lambda program: "/bin/nvidia-smi")
    monkeypatch.setattr(
        "subprocess.run",
        lambda *args, **options: subprocess.CompletedProcess([], 0, stdout=text[0]),
    )
    return text


def test_cuda_devices_are_listed(machine: Path, answer: list[str]) -> None:
    answer.append("NVIDIA H100, 9.0, 81559, 570.1\nNVIDIA L4, 8.9, 23034, 570.1\n")
    first, second = look(machine).gpus
    assert first == Gpu("NVIDIA H100", "9.0", 81559, "570.1")
    assert second.compute_capability == "8.9"


@pytest.mark.parametrize(("text", "size"), [("3\n", 3 << 20), ("[N/A]\n", None), ("", None)])
def test_used_memory_is_in_bytes(answer: list[str], text: str, size: int | None) -> None:
    answer.append(text)
    assert used_gpu_bytes(0) == size


def test_clocks_have_one_line_for_each_gpu(answer: list[str]) -> None:
    answer.append("1980 MHz, 2619 MHz, 41, 0x0\n1200 MHz, 2619 MHz, 80, 0x8\n")
    assert len(gpu_clocks()) == 2


def test_a_broken_nvidia_smi_is_borne(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flowsr_export.machine.nvidia_smi.shutil.which", lambda program: "/bin/false"
    )
    assert look(machine).gpus == ()
