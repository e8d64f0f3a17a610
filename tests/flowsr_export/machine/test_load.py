"""The load of other processes and the clocks, from values that the tests set."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flowsr_export.machine import load
from flowsr_export.machine.load import LoadMeter, read_clocks


def test_the_load_of_others_excludes_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 10.0, 20.0])
    before = SimpleNamespace(user=1.0, nice=0.0, system=0.0, idle=50.0, guest=1.0)
    after = SimpleNamespace(user=8.0, nice=1.0, system=1.0, idle=90.0, guest=8.0, steal=1.0)
    totals = iter([before, before, after])
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    monkeypatch.setattr("psutil.cpu_times", lambda: next(totals))
    meter = LoadMeter()
    meter.start()
    assert meter.stop() == pytest.approx(1.0, abs=0.05)


def test_without_elapsed_time_the_load_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    assert LoadMeter().stop() is None


def test_clocks_and_temperatures_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensors = {"a": [SimpleNamespace(current=50.0)], "b": [SimpleNamespace(current=61.5)]}
    frequency = [SimpleNamespace(current=3200.0)]
    monkeypatch.setattr("psutil.cpu_freq", lambda percpu: frequency)
    monkeypatch.setattr("psutil.sensors_temperatures", lambda: sensors)
    monkeypatch.setattr(load, "gpu_clocks", lambda: ())
    for cpu, count in (("cpu0", "4\n"), ("cpu1", "1\n")):
        folder = tmp_path / "devices/system/cpu" / cpu / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(count, encoding="ascii")
    assert read_clocks(tmp_path) == load.Clocks((3200.0,), 5, 61.5, ())


def test_unknown_clocks_are_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_freq", lambda percpu: None)
    monkeypatch.setattr("psutil.sensors_temperatures", dict)
    clocks = read_clocks(tmp_path)
    assert (clocks.cpu_mhz, clocks.cpu_throttled, clocks.temperature) == ((), None, None)
