"""Query the NVIDIA GPUs of this machine with nvidia-smi.

The driver brings nvidia-smi, so that `doctor` needs no library to ask it.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

__all__ = ["Gpu", "find_gpus", "gpu_clocks", "used_gpu_bytes"]

TIMEOUT_SECONDS = 10
CLOCKS = "clocks.sm,clocks.mem,temperature.gpu,clocks_event_reasons.active"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: Product name.
        compute_capability: Such as "9.0".
        memory_mib: Memory in MiB.
        driver: Version of the driver.
    """

    name: str
    compute_capability: str
    memory_mib: int
    driver: str


def find_gpus() -> tuple[Gpu, ...]:
    """Return every GPU; none without nvidia-smi."""
    lines = _query("name,compute_cap,memory.total,driver_version", units=False)
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    return tuple(Gpu(row[0], row[1], int(row[2]), row[3]) for row in rows if len(row) == 4)


def gpu_clocks() -> tuple[str, ...]:
    """Return clocks, temperature and throttle reasons of every GPU, one line each."""
    return tuple(_query(CLOCKS, units=True))


def used_gpu_bytes(device: int) -> int | None:
    """Return the memory in use on a GPU by all processes, None if it is unknown."""
    lines = _query("memory.used", f"--id={device}", units=False)
    return int(lines[0]) << 20 if lines and lines[0].isdigit() else None


def _query(fields: str, *options: str, units: bool) -> list[str]:
    """Return one line for each GPU, nothing where nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    layout = "csv,noheader" if units else "csv,noheader,nounits"
    try:
        result = subprocess.run(
            [program, *options, f"--query-gpu={fields}", f"--format={layout}"],
            capture_output=True,
            check=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return result.stdout.strip().splitlines()
