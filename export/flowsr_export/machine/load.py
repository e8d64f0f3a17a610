"""Load from other processes, and clock speeds, during a measurement."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from flowsr_export.machine.nvidia_smi import gpu_clocks

__all__ = ["LOADED_SHARE", "Clocks", "LoadMeter", "read_clocks"]

# Share of the machine's cores that other processes may use before a block counts as loaded.
LOADED_SHARE = 0.05
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")
THROTTLE_COUNTS = "devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"


class LoadMeter:
    """Measure how many cores other processes keep busy between two moments."""

    def __init__(self) -> None:
        """Start to measure."""
        self.start()

    def start(self) -> None:
        """Start again."""
        self._busy, self._own, self._at = _core_seconds()

    def stop(self) -> float | None:
        """Return the cores that others kept busy since `start`, None if no time passed."""
        busy, own, at = _core_seconds()
        if at <= self._at:
            return None
        others = (busy - self._busy) - (own - self._own)
        return max(others, 0.0) / (at - self._at)


@dataclass(frozen=True)
class Clocks:
    """Clock speeds at one moment; unknown values are empty or None.

    Attributes:
        cpu_mhz: Clock of each core.
        cpu_throttled: Times that cores were slowed for their temperature since the boot.
        temperature: Temperature of the hottest sensor, degrees Celsius.
        gpus: For each GPU its SM and memory clock, temperature, and throttle reasons as a bit
            mask, as nvidia-smi reports them.
    """

    cpu_mhz: tuple[float, ...]
    cpu_throttled: int | None
    temperature: float | None
    gpus: tuple[str, ...]


def read_clocks(sys: Path = Path("/sys")) -> Clocks:
    """Read the clocks.

    Args:
        sys: Folder of the kernel's device files.
    """
    throttled = [int(path.read_text(encoding="ascii")) for path in sys.glob(THROTTLE_COUNTS)]
    # psutil reads no temperatures outside Linux and FreeBSD.
    sensors = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    degrees = [sensor.current for group in sensors.values() for sensor in group]
    return Clocks(
        cpu_mhz=tuple(core.current for core in psutil.cpu_freq(percpu=True) or ()),
        cpu_throttled=sum(throttled) if throttled else None,
        temperature=max(degrees, default=None),
        gpus=gpu_clocks(),
    )


def _core_seconds() -> tuple[float, float, float]:
    """Return the busy core seconds of the machine and of this process, and the time."""
    total, own = psutil.cpu_times(), os.times()
    busy = sum(getattr(total, field, 0.0) for field in BUSY)
    return busy, own.user + own.system, time.monotonic()
