"""Measure the memory of the process, and estimate the memory for a picture."""

import ctypes
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flowsr_runtime.errors import MemoryBudgetError
from flowsr_runtime.geometry import size_text
from flowsr_runtime.tiling.cgroups import available_memory

__all__ = [
    "DEFAULT_MEMORY_BUDGET",
    "ENGINE_MEMORY_BUDGET",
    "NO_OVERHEAD",
    "ON_HOST",
    "MemoryBudget",
    "ResidentMemory",
    "check_available",
    "give_back_memory",
    "has_memory_limit",
    "peak_bytes",
    "picture_bytes",
    "process_bytes",
    "resident_bytes",
    "use_one_heap",
]

Size = tuple[int, int]

DEFAULT_MEMORY_BUDGET: Final = 2**30
"""Bytes of activations that one run may take unless the caller or the bundle sets a budget."""

ENGINE_MEMORY_BUDGET: Final = 16 * 2**30
"""Bytes of activations that a run of an engine may take, for cards of 24 GB and more."""

ON_HOST: Final = ("cpu", "openvino")
"""Providers whose activations are in the memory of the process."""

UNKNOWN_PROCESS: Final = 256 << 20
"""Bytes of interpreter, libraries and model, for systems that do not report them."""

ROW_BYTES: Final = 24
"""Bytes per pixel of a row of tiles: three float32, and temporaries of their checks."""

_ARENA_MAX: Final = -8  # glibc's number of the setting M_ARENA_MAX
_GIB: Final = 1 << 30
_DECODED: Final = 4  # bytes per pixel in Pillow, which pads RGB to four
_RESAMPLED: Final = 12  # bytes per pixel in float32
_RESAMPLING: Final = 10  # additional bytes per pixel while a channel is resampled


@dataclass(frozen=True)
class ResidentMemory:
    """Memory that a process holds besides the runs of a model.

    Attributes:
        held: Bytes of libraries, model, input and output picture.
        row_bytes: Bytes of one output row while a row of tiles is joined.
        counts: Whether budgets include this memory; they bound a run alone otherwise.
    """

    held: int = 0
    row_bytes: int = 0
    counts: bool = False


NO_OVERHEAD: Final = ResidentMemory()
"""No resident memory; budgets bound a run alone."""


@dataclass(frozen=True)
class MemoryBudget:
    """Bounds of the memory for pictures.

    Attributes:
        run: Bytes of activations that one run may take.
        most: Bytes that the process may take in total, or a run on a GPU; None for no bound.
        process: Bytes of interpreter, libraries and the loaded model; None on a GPU, which
            holds activations in its own memory.
    """

    run: int
    most: int | None
    process: int | None

    @classmethod
    def of(cls, run: int, most: int | None, provider: str) -> "MemoryBudget":
        """Measure the process before it holds a picture.

        Args:
            run: Bytes of activations that one run may take.
            most: As in the attributes.
            provider: Provider of the session.

        Returns:
            The budget.
        """
        return cls(run, most, process_bytes() if provider in ON_HOST else None)

    def shares(
        self, source: Size, model_size: Size, target: Size, pixel_bytes: int
    ) -> tuple[int, ResidentMemory]:
        """Split the budget between the tiles of a picture and the rest of the process.

        Args:
            source: LR size (h, w).
            model_size: Output size of the model.
            target: Output size (H, W); the output of the model is resampled if it differs.
            pixel_bytes: Bytes per pixel: channels times bytes per channel.

        Returns:
            Bytes that the tiles may take, and the memory held besides them.
        """
        if self.process is None:
            return min(self.run, self.most or self.run), NO_OVERHEAD
        held = self.process + picture_bytes(source, target, pixel_bytes)
        if model_size != target:
            held += _area(model_size) * _RESAMPLED + _area(target) * (_RESAMPLED + _RESAMPLING)
        resident = ResidentMemory(held, ROW_BYTES * model_size[1], counts=self.most is not None)
        return self.run if self.most is None else min(self.most, held + self.run), resident


def picture_bytes(source: Size, target: Size, pixel_bytes: int = 3) -> int:
    """Estimate the memory of a picture and its result: files, decoder, encoder and arrays.

    Measured at 4096x4096 on noise, which no format compresses: 8 bytes per output pixel for
    8-bit RGB, 17 for RGBA, 23 and 32 with 16 bits.

    Args:
        source: LR size (h, w).
        target: Output size (H, W).
        pixel_bytes: Bytes per pixel: channels times bytes per channel.
    """
    read = _area(source) * (2 * pixel_bytes + 2 * _DECODED)
    return read + _area(target) * (4 * pixel_bytes + _DECODED)


def check_available(source: Size, target: Size, pixel_bytes: int) -> None:
    """Check that the memory holds a picture and its result, before slow work.

    Args:
        source: LR size (h, w).
        target: Output size (H, W).
        pixel_bytes: Bytes per pixel: channels times bytes per channel.

    Raises:
        MemoryBudgetError: If they take more than the machine and its container can give.
    """
    needed, available = picture_bytes(source, target, pixel_bytes), available_memory()
    if available is not None and needed > available:
        raise MemoryBudgetError(
            f"{size_text(source)} to {size_text(target)} needs about {needed / _GIB:.1f} GiB, "
            f"and {available / _GIB:.1f} GiB are available"
        )


def has_memory_limit() -> bool:
    """Return whether allocations of this process may fail by a limit, as of `ulimit -v`."""
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    return any(resource.getrlimit(kind)[0] != resource.RLIM_INFINITY for kind in kinds)


def use_one_heap() -> None:
    """Let all threads allocate from one heap, where the C library has several (glibc).

    Each further one reserves 64 MiB of the address space.
    """
    if sys.platform == "linux":
        change = getattr(ctypes.CDLL(None), "mallopt", None)
        if change is not None:
            change(_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library keeps it (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def process_bytes() -> int:
    """Return the resident size of this process, or a guess if the system does not report it."""
    resident = resident_bytes()
    return UNKNOWN_PROCESS if resident is None else resident


def peak_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Return the peak resident size of this process, None if the system does not report it.

    `getrusage` does not serve here: the value of a child starts with that of its parent.

    Args:
        status: Status file of this process in /proc.
    """
    return _field(status, "VmHWM")


def resident_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Return the current resident size of this process; see `peak_bytes`."""
    return _field(status, "VmRSS")


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _field(status: Path, name: str) -> int | None:
    try:
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else None
