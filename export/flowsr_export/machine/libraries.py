"""Installed libraries, the commands that need each, and how to install missing ones."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from flowsr_export.machine.hardware import Device, read_device
from flowsr_runtime.backends.cuda_provider import cudnn_version
from flowsr_runtime.bundle import verdicts
from flowsr_runtime.installation import pip_command

__all__ = ["Environment", "Part", "describe_machine", "find_library", "examine"]


@dataclass(frozen=True)
class _Library:
    """A library that some command uses.

    Attributes:
        module: Import name.
        distributions: Package names that provide it.
        gives: Use of the library in this toolkit.
        remedy: Command that installs it.
        attribute: An attribute of the real module, which a stub of the same name lacks; None
            for the libraries that are not imported, because that takes seconds.
    """

    module: str
    distributions: tuple[str, ...]
    gives: str
    remedy: str
    attribute: str | None = None


BASE = pip_command()
CPU = f"{pip_command('cpu')} (or [gpu] for CUDA)"
EXPORT = pip_command("export")
BENCH = pip_command("bench")
SERVE = pip_command("serve")
COMPARING = "verify's certificate and its --locate: comparing ONNX models"

LIBRARIES = (
    _Library("numpy", ("numpy",), "arrays; every command", BASE),
    _Library("PIL", ("pillow",), "reading and writing images", BASE),
    _Library(
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
        "upscale, demo, export-onnx and verify: running a bundle",
        CPU,
        "InferenceSession",
    ),
    _Library("torch", ("torch",), "export-onnx, verify and train: the reference model", EXPORT),
    _Library("onnx", ("onnx",), "export-onnx: checking and storing a graph", EXPORT),
    _Library("onnxscript", ("onnxscript",), "export-onnx: writing a graph", EXPORT),
    _Library("safetensors", ("safetensors",), "reading and storing weights", EXPORT),
    _Library("matplotlib", ("matplotlib",), "bench: the charts of a report", BENCH),
    _Library("psutil", ("psutil",), "bench: the load of other processes", BENCH),
    _Library("jinja2", ("jinja2",), "bench and verify: HTML reports", EXPORT),
    _Library("fastapi", ("fastapi",), "serve: the web server", SERVE),
    _Library("uvicorn", ("uvicorn",), "serve: the web server", SERVE),
    _Library("ray", ("ray",), "upscale --ray: a cluster", pip_command("ray")),
    _Library("polygraphy", ("polygraphy",), COMPARING, EXPORT),
    _Library(
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
        "build-engine and its engines, on the GPU of this machine",
        pip_command("tensorrt"),
        "Builder",
    ),
    _Library(
        "tensorrt_rtx",
        ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
        "build-engine without a GPU, and its engines on GeForce and RTX",
        pip_command("tensorrt-rtx"),
        "Builder",
    ),
    _Library(
        "openvino",
        ("openvino",),
        "--backend openvino: running a bundle on Intel and AMD processors",
        pip_command("openvino"),
    ),
)


@dataclass(frozen=True)
class Part:
    """The state of one library on this machine.

    Attributes:
        name: Import name.
        version: Version, None if it is not installed or does not work.
        gives: Use of the library in this toolkit.
        remedy: Command that installs it.
        trouble: Reason why an installed library does not work.
        providers: Execution providers of ONNX Runtime.
    """

    name: str
    version: str | None
    gives: str
    remedy: str
    trouble: str | None = None
    providers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Environment:
    """Everything that `doctor` shows.

    Attributes:
        version: Version of this toolkit.
        python: Version of the interpreter.
        parts: The libraries.
        device: The machine.
        self_tests: Kept verdicts of self-tests, in words.
        verdict_folder: Folder that keeps them, None without a home.
        telemetry: Whether ONNX Runtime may report to its makers in these commands.
    """

    version: str
    python: str
    parts: tuple[Part, ...]
    device: Device
    self_tests: tuple[str, ...] = ()
    verdict_folder: str | None = None
    telemetry: bool = False


def examine() -> Environment:
    """Check every library, read the machine and the kept verdicts of self-tests."""
    folder = verdicts.cache_folder()
    return Environment(
        version=_version_of(("flowsr-lp",)) or "not installed",
        python=platform.python_version(),
        parts=(*(find_library(library) for library in LIBRARIES), _find_cudnn()),
        device=read_device(),
        self_tests=tuple(str(verdict) for verdict in verdicts.kept_verdicts()),
        verdict_folder=None if folder is None else str(folder),
        telemetry=os.environ.get("ORT_DISABLE_TELEMETRY") != "1",
    )


def describe_machine() -> dict[str, Any]:
    """Return the machine and the versions of its libraries as reports hold them."""
    environment = examine()
    parts = {part.name: part.version for part in environment.parts if part.version}
    return {
        **asdict(environment.device),
        "python": environment.python,
        "flowsr": environment.version,
        "libraries": parts,
    }


def find_library(library: _Library) -> Part:
    """Check one library; a broken or empty one counts as missing and has its reason."""
    missing = Part(library.module, None, library.gives, library.remedy)
    if importlib.util.find_spec(library.module) is None:
        return missing
    part = replace(missing, version=_version_of(library.distributions) or "unknown version")
    if library.attribute is None:
        return part
    try:
        module = importlib.import_module(library.module)
    except (ImportError, OSError, RuntimeError) as error:
        return replace(missing, trouble=" ".join(str(error).split()))
    if not hasattr(module, library.attribute):
        trouble = f"a package of that name is installed but has no {library.attribute}"
        return replace(missing, trouble=trouble)
    return replace(
        part,
        # Two packages may hold one module; the module knows which of them it is of.
        version=getattr(module, "__version__", part.version),
        providers=tuple(getattr(module, "get_available_providers", list)()),
    )


def _find_cudnn() -> Part:
    """Find the cuDNN that ONNX Runtime would load."""
    gives = "upscale --provider cuda: convolutions of ONNX Runtime"
    remedy = "pip install nvidia-cudnn-cu13 (nvidia-cudnn-cu12 for CUDA 12)"
    return Part("cudnn", cudnn_version(), gives, remedy)


def _version_of(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None
