"""The load of others and the clocks, read from files like the kernel's."""

from pathlib import Path

import pytest

from flowsr_export.machine.load import LoadMeter, read_clocks


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_what_others_compute_is_what_is_busy_beside_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("flowsr_export.machine.load.time.monotonic", lambda: next(moments))
    monkeypatch.setattr("flowsr_export.machine.load.os.sysconf", lambda name: 100)
    write(tmp_path / "stat", "cpu  100 0 0 5000 7 0 0 0 0 0\ncpu0 1 1\n")
    meter = LoadMeter(tmp_path)
    meter.start()
    write(tmp_path / "stat", "cpu  800 100 100 9000 7 50 50 0 0 0\ncpu0 1 1\n")
    assert meter.stop() == pytest.approx(1.0, abs=0.05)


def test_without_the_kernels_file_the_load_is_unknown(tmp_path: Path) -> None:
    meter = LoadMeter(tmp_path)
    meter.start()
    assert meter.stop() is None


def test_clocks_come_from_the_frequency_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsr_export.machine.load.shutil.which", lambda name: None)
    cpu = tmp_path / "devices/system/cpu/cpu0"
    write(cpu / "cpufreq/scaling_cur_freq", "3200000\n")
    write(cpu / "thermal_throttle/core_throttle_count", "4\n")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "61500\n")
    clocks = read_clocks(tmp_path, tmp_path)
    assert clocks.cpu_mhz == (3200.0,)
    assert (clocks.cpu_throttled, clocks.temperature, clocks.gpus) == (4, 61.5, ())


def test_without_them_clocks_come_from_cpuinfo(tmp_path: Path) -> None:
    write(tmp_path / "cpuinfo", "processor : 0\ncpu MHz : 2596.138\n")
    assert read_clocks(tmp_path, tmp_path).cpu_mhz == (2596.138,)


def test_clocks_that_nobody_tells_are_empty(tmp_path: Path) -> None:
    clocks = read_clocks(tmp_path, tmp_path)
    assert (clocks.cpu_mhz, clocks.cpu_throttled, clocks.temperature) == ((), None, None)
