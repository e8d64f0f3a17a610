"""What else the machine computes while something is timed, and how fast its clocks run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LOADED_SHARE", "Clocks", "LoadMeter", "read_clocks"]

# Share of the machine's cores that others may take before a block counts as loaded.
LOADED_SHARE = 0.05
NVIDIA_SMI_SECONDS = 10
# Columns of the first line of /proc/stat in which a core was busy: user, nice, system, irq,
# softirq, steal. The two guest columns are in user and nice already.
BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)
CPUS = "devices/system/cpu"
GPU_QUERY = "clocks.sm,clocks.mem,temperature.gpu,clocks_event_reasons.active"


@dataclass(frozen=True)
class _Reading:
    """Core seconds until now: of the whole machine and of this process."""

    busy: float | None
    own: float
    at: float


class LoadMeter:
    """Measures how many cores other processes keep busy between two moments."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """Begin to measure.

        Args:
            proc: Where the kernel's files are.
        """
        self._stat = proc / "stat"
        self._last = self._read()

    def start(self) -> None:
        """Begin again."""
        self._last = self._read()

    def stop(self) -> float | None:
        """Return the cores that others kept busy since `start`, None if it is unknown."""
        first, last = self._last, self._read()
        if first.busy is None or last.busy is None or last.at <= first.at:
            return None
        others = (last.busy - first.busy) - (last.own - first.own)
        return max(others, 0.0) / (last.at - first.at)

    def _read(self) -> _Reading:
        times = os.times()
        return _Reading(_busy_seconds(self._stat), times.user + times.system, time.monotonic())


@dataclass(frozen=True)
class Clocks:
    """Clocks at one moment; what the system does not tell is empty or None.

    Attributes:
        cpu_mhz: Clock of each core.
        cpu_throttled: How often the cores were slowed for their temperature since the start.
        temperature: The hottest sensor, degrees Celsius.
        gpus: What nvidia-smi says of each GPU: SM and memory clock, temperature, and the
            reasons for which it is slowed, as a bit mask.
    """

    cpu_mhz: tuple[float, ...]
    cpu_throttled: int | None
    temperature: float | None
    gpus: tuple[str, ...]


def read_clocks(proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Clocks:
    """Read the clocks.

    Args:
        proc: Where the kernel's process files are.
        sys: Where the kernel's device files are.
    """
    kilohertz = _numbers(sys, f"{CPUS}/cpu[0-9]*/cpufreq/scaling_cur_freq")
    megahertz = [value / 1e3 for value in kilohertz] or _cpuinfo_clocks(proc / "cpuinfo")
    throttled = _numbers(sys, f"{CPUS}/cpu[0-9]*/thermal_throttle/core_throttle_count")
    degrees = _numbers(sys, "class/thermal/thermal_zone*/temp")
    return Clocks(
        cpu_mhz=tuple(megahertz),
        cpu_throttled=int(sum(throttled)) if throttled else None,
        temperature=max(degrees) / 1e3 if degrees else None,
        gpus=_gpu_clocks(),
    )


def _busy_seconds(stat: Path) -> float | None:
    try:
        words = stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        ticks = sum(int(words[column]) for column in BUSY_COLUMNS)
    except (OSError, ValueError, IndexError):
        return None
    return ticks / os.sysconf("SC_CLK_TCK")


def _numbers(root: Path, pattern: str) -> list[float]:
    values = []
    for path in sorted(root.glob(pattern)):
        try:
            values.append(float(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return values


def _cpuinfo_clocks(path: Path) -> list[float]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]


def _gpu_clocks() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={GPU_QUERY}", "--format=csv,noheader"],
            capture_output=True,
            check=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.strip().splitlines())
