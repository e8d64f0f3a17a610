"""Processor, memory and GPUs of this machine, and the limits of this process."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from flowsr_export.machine.nvidia_smi import Gpu, find_gpus
from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.tiling.cgroups import memory_left, memory_limit

__all__ = ["Device", "read_device"]

# Instruction sets that speed up convolutions and matrix products, on x86 and on Arm.
INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@dataclass(frozen=True)
class Device:
    """The machine and its limits.

    Attributes:
        system: Operating system and architecture.
        cpu: Name of the processor.
        cores: Cores that this process may use, by its affinity and the quota of its container.
        memory_bytes: Total memory, or the limit of this process where that is lower.
        available_bytes: Memory that is free now.
        instruction_sets: Supported instruction sets that matter for speed.
        gpus: CUDA devices.
        processors: Cores of its affinity alone, None if unknown.
        memory_limit_bytes: Memory limit of the container, None without one.
    """

    system: str
    cpu: str
    cores: int
    memory_bytes: int | None
    available_bytes: int | None
    instruction_sets: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    processors: int | None = None
    memory_limit_bytes: int | None = None


def read_device(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Device:
    """Read the processor, the memory and the CUDA devices of this machine.

    Args:
        proc: Folder of the kernel's files.
        cgroup: Folder where the cgroups are mounted.
    """
    cpuinfo = _fields(proc / "cpuinfo")
    meminfo = _fields(proc / "meminfo")
    flags = f"{cpuinfo.get('flags', '')} {cpuinfo.get('Features', '')}".split()
    total = _kibibytes(meminfo.get("MemTotal"))
    available = _kibibytes(meminfo.get("MemAvailable"))
    membership = proc / "self" / "cgroup"
    limit, left = memory_limit(membership, cgroup), memory_left(membership, cgroup)
    if limit is not None and total is not None:
        total = min(total, limit)
    if left is not None and available is not None:
        available = min(available, left)
    affinity = getattr(os, "sched_getaffinity", None)
    return Device(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        memory_bytes=total,
        available_bytes=available,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        gpus=find_gpus(),
        processors=os.cpu_count() if affinity is None else len(affinity(0)),
        memory_limit_bytes=limit,
    )


def _fields(path: Path) -> dict[str, str]:
    """Return the first value of each `name : value` line; empty for a missing file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.split(":", 1) for line in reversed(lines) if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def _kibibytes(field: str | None) -> int | None:
    return None if field is None else int(field.split()[0]) * 1024
