"""Build an engine with PyTorch's Inductor: its library, device, key options and package."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, cast

from flowsr_export.engine.builder import Built, Settings
from flowsr_export.engine.library import Target
from flowsr_runtime import Bundle
from flowsr_runtime.bundle.engine_store import EngineEntry, EngineKey, Option
from flowsr_runtime.errors import ProviderError, UsageError

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Precision
    from flowsr_lp import Checkpoint
    from flowsr_runtime.backends.engines.inductor_engine import InductorEngine

__all__ = [
    "build_package",
    "check_request",
    "key_options",
    "open_package",
    "place_of",
    "target_of_place",
]

PRECISIONS = ("fp32", "fp16", "bf16")


def place_of(device: int | str | None) -> str:
    """Return the device to compile for, "cpu" or "cuda:N".

    Args:
        device: GPU index, "cpu", "cuda" or "cuda:N"; None for the first GPU that PyTorch
            uses, or without one the CPU.

    Raises:
        UsageError: If it is another text.
    """
    from flowsr_runtime.backends.engines.inductor_engine import compute_capability

    if device is None:
        try:
            compute_capability("cuda:0")
        except ProviderError:
            return "cpu"
        return "cuda:0"
    if device == "cpu":
        return "cpu"
    index = str(device).removeprefix("cuda").removeprefix(":") or "0"
    if not index.isdecimal():
        message = f"device must be cpu, cuda, cuda:N or a GPU index, got {device!r}"
        raise UsageError(message, option="device")
    return f"cuda:{index}"


def target_of_place(place: str) -> Target:
    """Return what an engine for a device runs on: its compute capability or instructions.

    Raises:
        ProviderError: If PyTorch has no such device.
    """
    from flowsr_runtime.backends.engines.inductor_engine import compute_capability

    return Target((compute_capability(place),), None)


def check_request(precision: str, settings: Settings, place: str, *, kernels: bool) -> None:
    """Refuse precisions that Inductor has no module for, and settings of others.

    Args:
        precision: Precision of the engine.
        settings: Settings of TensorRT's builder, all at their defaults.
        place: "cpu" or "cuda:N".
        kernels: Whether the engine has the project's own kernels.

    Raises:
        UsageError: If a value is refused.
    """
    if precision not in PRECISIONS:
        message = f"precision must be {', '.join(PRECISIONS)} with inductor, got {precision}"
        raise UsageError(message, option="precision")
    if not kernels and place == "cpu":
        message = "kernels must be on with device cpu, which has none to leave out, got off"
        raise UsageError(message, option="kernels")
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value != field.default:
            message = f"{field.name} is for tensorrt and tensorrt_rtx, got {value!r}"
            raise UsageError(f"{message} with inductor", option=field.name)


def key_options(place: str, *, kernels: bool = True) -> dict[str, Option]:
    """Return the options of the key: Triton's version, which compiles the kernels of a GPU.

    Args:
        place: "cpu" or "cuda:N".
        kernels: Whether the engine has the project's own kernels; stated where it has none.
    """
    from flowsr_export.deployment.compilation import triton_version

    if place == "cpu":
        return {}
    return {"triton": triton_version(), **({} if kernels else {"kernels": False})}


def build_package(
    bundle: Bundle,
    key: EngineKey,
    checkpoint: Checkpoint,
    place: str,
    report: Callable[[float, str], None] = lambda share, phase: None,
) -> Built:
    """Compile the package of an engine; nothing is left where it is interrupted.

    Args:
        bundle: Bundle with the graph of the same module.
        key: Key of the engine.
        checkpoint: Checkpoint of the bundle.
        place: "cpu" or "cuda:N".
        report: Called with the completed share and the phase.

    Raises:
        BackendError: If this machine has no compiler.
        FlowsrError: If the compiler fails.
    """
    from flowsr_export.deployment.compilation import compile_package
    from flowsr_export.deployment.families import deployment_of
    from flowsr_export.parity.reference import restated_scale

    deployment, count = deployment_of(checkpoint.network), len(key.profiles)
    began = time.monotonic()
    package = compile_package(
        deployment,
        cast("Precision", key.precision),
        restated_scale(bundle, deployment),
        key.profiles,
        io=bundle.manifest.io,
        device=place,
        fuse=place != "cpu" and key.options.get("kernels") is not False,
        report=lambda index: report(index / count, f"profile {index + 1} of {count}"),
    )
    seconds = time.monotonic() - began
    return Built(package.content, seconds, (), package.tensors, "", ())


@contextmanager
def open_package(
    bundle: Bundle, key: EngineKey, built: Built, place: str
) -> Iterator[InductorEngine]:
    """Load a package that is not stored yet.

    Args:
        bundle: Bundle of the engine.
        key: Key of the engine.
        built: The package.
        place: "cpu" or "cuda:N".

    Yields:
        The engine, without CUDA graphs.

    Raises:
        BundleError: If PyTorch cannot load it.
    """
    from flowsr_runtime.backends.engines.inductor_engine import InductorEngine

    entry = EngineEntry.of(key, built.plan, {"tensors": list(built.tensors)})
    manifest = bundle.manifest
    halo, scale = manifest.tiling.halo, manifest.scale
    engine = InductorEngine(entry, built.plan, place, patch=halo.patch, scale=scale)
    try:
        yield engine
    finally:
        engine.close()
