"""Say what is installed, what a missing part would give, and what this machine is."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Device", "Examination", "Gpu", "Part", "examine", "look_at_device", "look_for"]

# What decides the speed of convolutions and matrix products, on x86 and on Arm.
INSTRUCTION_SETS = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)

NVIDIA_SMI_SECONDS = 10


@dataclass(frozen=True)
class _Wanted:
    """A library that some command uses.

    Attributes:
        module: Its import name.
        distributions: The package names that it may come under.
        gives: What it is for here.
        remedy: The command that installs it.
        attribute: What a working module has; a stub of the same name has not.
        imported: Whether to import it to see if it works; the others cost seconds.
    """

    module: str
    distributions: tuple[str, ...]
    gives: str
    remedy: str
    attribute: str | None = None
    imported: bool = False


BASE = "pip install flowsr-lp"
CPU = "pip install 'flowsr-lp[cpu]' (or [gpu] for CUDA)"
EXPORT = "pip install 'flowsr-lp[export]'"
BENCH = "pip install 'flowsr-lp[bench]'"
SERVE = "pip install 'flowsr-lp[serve]'"
COMPARING = "verify's certificate and its --bisect: comparing ONNX backends"

WANTED = (
    _Wanted("numpy", ("numpy",), "arrays; every command", BASE),
    _Wanted("PIL", ("pillow",), "reading and writing pictures", BASE),
    _Wanted(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
        "upscale, demo, export-onnx and verify: running a bundle",
        CPU,
        "InferenceSession",
        imported=True,
    ),
    _Wanted("torch", ("torch",), "export-onnx, verify and train: the reference model", EXPORT),
    _Wanted("onnx", ("onnx",), "export-onnx: checking and storing a graph", EXPORT),
    _Wanted("onnxscript", ("onnxscript",), "export-onnx: writing a graph", EXPORT),
    _Wanted("safetensors", ("safetensors",), "reading and storing weights", EXPORT),
    _Wanted("matplotlib", ("matplotlib",), "bench: the pictures of a report", BENCH),
    _Wanted("fastapi", ("fastapi",), "serve: the web server", SERVE),
    _Wanted("uvicorn", ("uvicorn",), "serve: the web server", SERVE),
    _Wanted("ray", ("ray",), "upscale --ray: a cluster", "pip install 'flowsr-lp[ray]'"),
    _Wanted("polygraphy", ("polygraphy",), COMPARING, EXPORT),
    _Wanted(
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        "build-engine and its engines, on the GPU that is here",
        "pip install 'flowsr-lp[tensorrt]'",
        "Builder",
        imported=True,
    ),
    _Wanted(
        "tensorrt_rtx",
        ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
        "build-engine without a GPU, and its engines on GeForce and RTX",
        "pip install 'flowsr-lp[tensorrt-rtx]'",
        "Builder",
        imported=True,
    ),
    _Wanted(
        "openvino",
        ("openvino",),
        "the openvino provider, together with onnxruntime-openvino in onnxruntime's place",
        "pip install openvino onnxruntime-openvino",
    ),
)


@dataclass(frozen=True)
class Part:
    """One library as found here.

    Attributes:
        name: Its import name.
        version: Its version; none if it is not installed or does not work.
        gives: What it is for.
        remedy: The command that installs it.
        trouble: Why it does not work though it is there.
        providers: ONNX Runtime's execution providers.
    """

    name: str
    version: str | None
    gives: str
    remedy: str
    trouble: str | None = None
    providers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gpu:
    """One CUDA device.

    Attributes:
        name: Its name.
        compute_capability: As in "9.0".
        memory_mib: Its memory in MiB.
        driver: The driver's version.
    """

    name: str
    compute_capability: str
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class Device:
    """The machine and its limits.

    Attributes:
        system: Operating system and architecture.
        cpu: The processor's name.
        cores: Cores that this process may use.
        memory_bytes: All memory, or this process's share where it is limited.
        available_bytes: Memory that is free to use now.
        instruction_sets: Those that matter for speed.
        gpus: CUDA devices.
    """

    system: str
    cpu: str
    cores: int
    memory_bytes: int | None
    available_bytes: int | None
    instruction_sets: tuple[str, ...]
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True)
class Examination:
    """Everything that `doctor` found.

    Attributes:
        version: This toolkit's version.
        python: The interpreter's version.
        parts: The libraries.
        device: The machine.
    """

    version: str
    python: str
    parts: tuple[Part, ...]
    device: Device


def examine() -> Examination:
    """Look at every library and at the machine."""
    return Examination(
        version=_version_of(("flowsr-lp",)) or "not installed",
        python=platform.python_version(),
        parts=tuple(look_for(wanted) for wanted in WANTED),
        device=look_at_device(),
    )


def look_for(wanted: _Wanted) -> Part:
    """Find one library; a broken or an empty one counts as missing and says why."""
    found = Part(wanted.module, None, wanted.gives, wanted.remedy)
    if importlib.util.find_spec(wanted.module) is None:
        return found
    version = _version_of(wanted.distributions) or "unknown version"
    if not wanted.imported:
        return Part(wanted.module, version, wanted.gives, wanted.remedy)
    try:
        module = importlib.import_module(wanted.module)
    except (ImportError, OSError, RuntimeError) as error:
        trouble = " ".join(str(error).split())
        return Part(wanted.module, None, wanted.gives, wanted.remedy, trouble)
    if wanted.attribute is not None and not hasattr(module, wanted.attribute):
        trouble = f"a package of that name is there but has no {wanted.attribute}"
        return Part(wanted.module, None, wanted.gives, wanted.remedy, trouble)
    providers = tuple(getattr(module, "get_available_providers", list)())
    return Part(wanted.module, version, wanted.gives, wanted.remedy, None, providers)


def look_at_device(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Device:
    """Read the processor, the memory and the CUDA devices of this machine.

    Args:
        proc: Where the kernel's files are.
        cgroup: Where this process's limits are.
    """
    cpuinfo = _fields(proc / "cpuinfo")
    meminfo = _fields(proc / "meminfo")
    flags = f"{cpuinfo.get('flags', '')} {cpuinfo.get('Features', '')}".split()
    total = _kibibytes(meminfo.get("MemTotal"))
    available = _kibibytes(meminfo.get("MemAvailable"))
    limit = _first_word(cgroup / "memory.max")
    if limit.isdigit() and total is not None and available is not None:
        used = int(_first_word(cgroup / "memory.current") or 0)
        total = min(total, int(limit))
        available = min(available, max(int(limit) - used, 0))
    return Device(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        cores=_usable_cores(cgroup),
        memory_bytes=total,
        available_bytes=available,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        gpus=_gpus(),
    )


def _version_of(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _fields(path: Path) -> dict[str, str]:
    """Return the first value of each `name : value` line; empty if there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = [line.split(":", 1) for line in reversed(lines) if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def _kibibytes(field: str | None) -> int | None:
    return None if field is None else int(field.split()[0]) * 1024


def _first_word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").split()[0]
    except (OSError, IndexError):
        return ""


def _usable_cores(cgroup: Path) -> int:
    """Return the cores this process may run on, less where a quota allows less."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(min(cores, int(quota) // int(period)), 1)


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = "--query-gpu=name,compute_cap,memory.total,driver_version"
    try:
        answer = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            check=True,
            text=True,
            timeout=NVIDIA_SMI_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines()]
    return tuple(Gpu(row[0], row[1], int(row[2]), row[3]) for row in rows if len(row) == 4)
