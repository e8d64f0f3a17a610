"""TensorRT or TensorRT for RTX: which is here, which is meant, and what it builds for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flowsr_runtime.errors import BackendError, ProviderError, UsageError

if TYPE_CHECKING:
    from flowsr_runtime.cuda.device import Device

__all__ = ["TensorrtVariant", "Library", "Target", "device_here", "load_library", "target_of"]

TensorrtVariant = Literal["auto", "tensorrt", "tensorrt_rtx"]

# The first version whose calls are those of 11; older ones lack some.
OLDEST = {"tensorrt": (10, 13), "tensorrt_rtx": (1, 1)}
TURING = "7.5"  # for which tensorrt_rtx has no products in float32
EXTRAS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class Library:
    """A builder's library.

    Attributes:
        module: `tensorrt` or `tensorrt_rtx`.
        flavour: The same as a text.
        version: Its version.
    """

    module: Any
    flavour: str
    version: str

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, which needs no GPU to build."""
        return self.flavour == "tensorrt_rtx"

    def lacks_gemm(self, capabilities: Sequence[str]) -> bool:
        """Return whether it has no products in float32 for some GPUs; see `turing`."""
        return self.is_rtx and TURING in capabilities

    def capabilities(self) -> dict[str, Any]:
        """Return what it builds for without a GPU: "8.9" and the like to its constants."""
        names = getattr(self.module, "ComputeCapability", None)
        members = {} if names is None else dict(names.__members__)
        found = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in members}
        return {f"{m[1]}.{m[2]}": members[name] for name, m in found.items() if m is not None}


@dataclass(frozen=True)
class Target:
    """The GPUs that an engine runs on.

    Attributes:
        compute_capability: Such as ("8.9",); empty is 8.0 and above.
        gpu_name: The only model of GPU, None where the compute capability decides.
    """

    compute_capability: tuple[str, ...]
    gpu_name: str | None

    def __str__(self) -> str:
        devices = ", ".join(self.compute_capability) or "8.0 and above"
        return f"compute capability {devices}" + (f", {self.gpu_name}" * bool(self.gpu_name))


def load_library(flavour: TensorrtVariant, device: Device | None = None) -> Library:
    """Import the library of a flavour.

    Args:
        flavour: "auto" takes tensorrt where it is installed and there is a GPU, else
            tensorrt_rtx.
        device: The GPU that is here, None for none.

    Returns:
        The library.

    Raises:
        BackendError: If it is not installed, is an empty package, or is too old.
    """
    if flavour != "auto":
        return _load(flavour)
    order = ("tensorrt", "tensorrt_rtx") if device else ("tensorrt_rtx", "tensorrt")
    troubles = []
    for each in order:
        try:
            return _load(each)
        except BackendError as error:
            troubles.append(str(error))
    raise BackendError("; ".join(troubles))


def device_here(index: int) -> Device | None:
    """Return a GPU of this machine, None where there is none or no driver.

    Args:
        index: Its index.

    Raises:
        ProviderError: If there are GPUs, but not that one.
    """
    try:
        from flowsr_runtime.cuda.device import Device
    except ImportError:  # without cuda-bindings nothing is known of a GPU
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
    """Say which GPUs an engine will run on.

    Args:
        library: The builder's.
        capabilities: Compute capabilities that are asked for, none for the usual.
        hardware_compatibility: "none", "ampere-plus" or "same-compute-capability".
        device: The GPU that is here; tensorrt builds on it and for it.

    Returns:
        The target, as the engine's key has it.

    Raises:
        ProviderError: If the library cannot build for what is asked for.
        UsageError: If an option is not one of the flavour's.
    """
    if library.is_rtx:
        if hardware_compatibility != "none":
            raise UsageError(
                "--hardware-compatibility-level is for --flavour tensorrt; an engine of "
                "tensorrt-rtx without --compute-capability runs on 8.0 and above"
            )
        known = library.capabilities()
        if TURING in capabilities and len(set(capabilities)) > 1:
            raise UsageError(
                f"compute capability {TURING} needs an engine of its own, got "
                f"{', '.join(capabilities)}: its products in float32 are written in another way"
            )
        for each in capabilities:
            if each not in known:
                raise ProviderError(
                    f"{library} builds for compute capability {', '.join(known)}, got {each}"
                    + ("; H100 and H200 need --flavour tensorrt" if each == "9.0" else "")
                )
        return Target(tuple(sorted(set(capabilities), key=float)), None)
    if device is None:
        raise ProviderError(
            f"{library} builds on the GPU that it builds for, and there is none here; "
            "--flavour tensorrt-rtx builds without one"
        )
    if set(capabilities) - {device.compute_capability}:
        raise ProviderError(
            f"{library} builds for the GPU that is here, {device.name} "
            f"({device.compute_capability}), got {', '.join(capabilities)}"
        )
    if hardware_compatibility == "ampere-plus":
        return Target((), None)
    same = hardware_compatibility == "same-compute-capability"
    return Target((device.compute_capability,), None if same else device.name)


def _load(flavour: str) -> Library:
    remedy = f"pip install 'flowsr-lp[{EXTRAS[flavour]}]'"
    try:
        module = importlib.import_module(flavour)
    except (ImportError, OSError, RuntimeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == flavour:
            raise BackendError(f"{flavour} is not installed; {remedy}") from error
        raise BackendError(f"{flavour} cannot be loaded: {error}") from error
    if not hasattr(module, "Builder"):
        raise BackendError(f"{flavour} here is an empty package without a Builder; {remedy}")
    version = str(module.__version__)
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < OLDEST[flavour]:
        oldest = ".".join(map(str, OLDEST[flavour]))
        raise BackendError(f"{flavour} must be {oldest} or newer, got {version}; {remedy}")
    return Library(module, flavour, version)
