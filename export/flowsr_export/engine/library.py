"""Load a library that builds engines, and determine the devices it builds for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flowsr_runtime.bundle.engine_key import CPU_PREFIX
from flowsr_runtime.errors import BackendError, ProviderError, UsageError
from flowsr_runtime.installation import pip_command

if TYPE_CHECKING:
    from flowsr_runtime.cuda.device import Device

__all__ = ["TensorrtVariant", "Library", "Target", "device_here", "load_library", "target_of"]

TensorrtVariant = Literal["auto", "tensorrt", "tensorrt_rtx", "inductor"]

# The first versions with all the calls we use.
OLDEST = {"tensorrt": (10, 13), "tensorrt_rtx": (1, 1)}
TURING = "7.5"  # tensorrt_rtx has no float32 matrix products for it
MODULES = {"inductor": "torch"}
EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx", "inductor": "export"}


@dataclass(frozen=True)
class Library:
    """A library that builds engines.

    Attributes:
        module: Module `tensorrt`, `tensorrt_rtx`, or `torch` of Inductor.
        flavour: "tensorrt", "tensorrt_rtx" or "inductor".
        version: Version of the library.
    """

    module: Any
    flavour: str
    version: str

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    @property
    def is_inductor(self) -> bool:
        """Whether it is PyTorch's Inductor, which also builds for a CPU."""
        return self.flavour == "inductor"

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, which builds without a GPU."""
        return self.flavour == "tensorrt_rtx"

    def lacks_gemm(self, capabilities: Sequence[str]) -> bool:
        """Return whether it has no float32 products for these GPUs; see `gemm_rewrite`."""
        return self.is_rtx and TURING in capabilities

    def capabilities(self) -> dict[str, Any]:
        """Return the library's constants by compute capability, such as "8.9"."""
        names = getattr(self.module, "ComputeCapability", None)
        members = {} if names is None else dict(names.__members__)
        found = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in members}
        return {f"{m[1]}.{m[2]}": members[name] for name, m in found.items() if m is not None}


@dataclass(frozen=True)
class Target:
    """The GPUs that an engine runs on.

    Attributes:
        compute_capability: Compute capabilities such as ("8.9",); empty for 8.0 and above.
        gpu_name: The only GPU model, None if the compute capability is sufficient.
    """

    compute_capability: tuple[str, ...]
    gpu_name: str | None

    def __str__(self) -> str:
        devices = ", ".join(self.compute_capability) or "8.0 and above"
        if devices.startswith(CPU_PREFIX):
            return f"CPU with {devices.removeprefix(CPU_PREFIX)}"
        return f"compute capability {devices}" + (f", {self.gpu_name}" * bool(self.gpu_name))


def load_library(flavour: TensorrtVariant, device: Device | None = None) -> Library:
    """Import a TensorRT library.

    Args:
        flavour: Library; "auto" prefers tensorrt if there is a GPU, else tensorrt_rtx.
        device: GPU of this machine, None without one.

    Returns:
        The library.

    Raises:
        BackendError: If it is not installed, is an empty package, or is too old.
    """
    if flavour != "auto":
        return _load(flavour)
    order = ("tensorrt", "tensorrt_rtx") if device else ("tensorrt_rtx", "tensorrt")
    problems = []
    for name in order:
        try:
            return _load(name)
        except BackendError as error:
            problems.append(str(error))
    raise BackendError("; ".join(problems))


def device_here(index: int) -> Device | None:
    """Return a GPU of this machine, None without a GPU or driver.

    Args:
        index: GPU index.

    Raises:
        ProviderError: If an index above 0 does not exist.
    """
    try:
        from flowsr_runtime.cuda.device import Device
    except ImportError:  # without cuda-bindings the GPU cannot be queried
        return None
    try:
        return Device.open(index)
    except ProviderError:
        if index:
            raise
        return None


def target_of(
    library: Library,
    capabilities: Sequence[str],
    hardware_compatibility: str,
    device: Device | None,
) -> Target:
    """Return the GPUs that an engine will run on.

    Args:
        library: TensorRT library.
        capabilities: Requested compute capabilities, empty for the default.
        hardware_compatibility: "none", "ampere-plus" or "same-compute-capability".
        device: GPU of this machine; tensorrt builds on it and for it.

    Returns:
        The target, as in the engine's key.

    Raises:
        ProviderError: If the library cannot build for the requested GPUs.
        UsageError: If a setting is for the other library.
    """
    if library.is_rtx:
        if hardware_compatibility != "none":
            message = "hardware_compatibility is for tensorrt, tensorrt_rtx needs none"
            raise UsageError(message, option="hardware_compatibility")
        known = library.capabilities()
        if TURING in capabilities and len(set(capabilities)) > 1:
            message = f"{TURING} needs an engine of its own, got {', '.join(capabilities)}"
            raise UsageError(message, option="compute_capabilities")
        for capability in capabilities:
            if capability not in known:
                rule = f"builds for compute capability {', '.join(known)}, got {capability}"
                hint = "; H100 and H200 need tensorrt" if capability == "9.0" else ""
                raise ProviderError(f"{library} {rule}{hint}", option="compute_capabilities")
        return Target(tuple(sorted(set(capabilities), key=float)), None)
    if device is None:
        message = f"{library} builds on the target GPU; tensorrt_rtx builds without one"
        raise ProviderError(message, option="flavour")
    if set(capabilities) - {device.compute_capability}:
        here = f"{device.name} ({device.compute_capability})"
        message = f"{library} builds for {here}, got {', '.join(capabilities)}"
        raise ProviderError(message, option="compute_capabilities")
    if hardware_compatibility == "ampere-plus":
        return Target((), None)
    same = hardware_compatibility == "same-compute-capability"
    return Target((device.compute_capability,), None if same else device.name)


def _load(flavour: str) -> Library:
    remedy = pip_command(EXTRAS[flavour])
    name = MODULES.get(flavour, flavour)
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise BackendError(f"{name} is not installed; {remedy}") from error
        raise BackendError(f"{name} cannot be loaded: {error}") from error
    if flavour == "inductor":
        return Library(module, flavour, str(module.__version__))
    if not hasattr(module, "Builder"):
        raise BackendError(f"the installed {flavour} is an empty package; {remedy}")
    version = str(module.__version__)
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < OLDEST[flavour]:
        oldest = ".".join(map(str, OLDEST[flavour]))
        raise BackendError(f"{flavour} must be {oldest} or newer, got {version}; {remedy}")
    return Library(module, flavour, version)
