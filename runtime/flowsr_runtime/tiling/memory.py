"""What a process holds in memory: now, at its peak, and for a picture of a given size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "DEFAULT_MEMORY_BUDGET",
    "NO_OVERHEAD",
    "MemoryBudget",
    "ResidentMemory",
    "peak_bytes",
    "picture_bytes",
    "process_bytes",
    "resident_bytes",
]

Size = tuple[int, int]

DEFAULT_MEMORY_BUDGET: Final = 2**30
"""Bytes of activations that one run may take unless the caller or the bundle sets a budget."""

ON_HOST: Final = ("cpu", "openvino")
"""Providers whose activations lie in the memory of the process."""

UNKNOWN_PROCESS: Final = 256 << 20
"""Bytes of interpreter, libraries and model where the system does not tell them."""

ROW_BYTES: Final = 24
"""Bytes of a pixel of a row of tiles: three float32, and what is compared in them."""

_DECODED: Final = 4  # bytes of a pixel in Pillow, which holds RGB as four
_RESAMPLED: Final = 12  # bytes of a pixel in float32
_RESAMPLING: Final = 10  # more while a channel is resampled


@dataclass(frozen=True)
class ResidentMemory:
    """What a process holds beside the runs of a model.

    Attributes:
        held: Bytes of libraries, model and the picture on both sides.
        row_bytes: Bytes of one output row while a row of tiles is joined.
        counts: Whether a budget is of all this and a run together, not of a run alone.
    """

    held: int = 0
    row_bytes: int = 0
    counts: bool = False


NO_OVERHEAD: Final = ResidentMemory()
"""Where a budget is of one run and nothing else is known."""


@dataclass(frozen=True)
class MemoryBudget:
    """The memory that pictures may take.

    Attributes:
        run: Bytes of activations that one run may take.
        most: Bytes that the process may take in all, or a run on a GPU; None for no bound.
        process: Bytes of interpreter, libraries and the loaded model; None on a GPU, whose
            activations do not lie in the memory of the process.
    """

    run: int
    most: int | None
    process: int | None

    @classmethod
    def of(cls, run: int, most: int | None, provider: str) -> "MemoryBudget":
        """Measure the process before it holds a picture.

        Args:
            run: Bytes of activations that one run may take.
            most: Bytes that the process may take in all, or a run on a GPU; None for no bound.
            provider: Of the session.

        Returns:
            The allowance.
        """
        return cls(run, most, process_bytes() if provider in ON_HOST else None)

    def shares(
        self, source: Size, made: Size, target: Size, pixel_bytes: int
    ) -> tuple[int, ResidentMemory]:
        """Return what the tiles of a picture may take.

        Args:
            source: LR size (h, w).
            made: Output size of the model.
            target: Output size (H, W); where it is another, what is made is resampled.
            pixel_bytes: Bytes of a pixel: channels by bytes of a channel.

        Returns:
            Bytes that may be taken, and what is held beside the tiles.
        """
        if self.process is None:
            return min(self.run, self.most or self.run), NO_OVERHEAD
        held = self.process + picture_bytes(source, target, pixel_bytes)
        if made != target:
            held += _area(made) * _RESAMPLED + _area(target) * (_RESAMPLED + _RESAMPLING)
        beside = ResidentMemory(held, ROW_BYTES * made[1], counts=self.most is not None)
        return self.run if self.most is None else min(self.most, held + self.run), beside


def picture_bytes(source: Size, target: Size, pixel_bytes: int = 3) -> int:
    """Return what a picture and its enlargement take: files, decoder, encoder and arrays.

    Measured on noise, which no format makes smaller, at 4096x4096: 8 bytes of an output pixel
    of 8-bit RGB, 17 of RGBA, 23 and 32 with 16 bits.

    Args:
        source: LR size (h, w).
        target: Output size (H, W).
        pixel_bytes: Bytes of a pixel: channels by bytes of a channel.
    """
    read = _area(source) * (2 * pixel_bytes + 2 * _DECODED)
    return read + _area(target) * (4 * pixel_bytes + _DECODED)


def process_bytes() -> int:
    """Return the resident size of this process, or a guess where the system is silent."""
    resident = resident_bytes()
    return UNKNOWN_PROCESS if resident is None else resident


def peak_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Return the largest resident size of this process so far, None if it is not told.

    `getrusage` is of no use for this: a child's figure begins with its parent's.

    Args:
        status: The kernel's file about this process.
    """
    return _field(status, "VmHWM")


def resident_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Return the resident size of this process now; see `peak_bytes`."""
    return _field(status, "VmRSS")


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _field(status: Path, name: str) -> int | None:
    try:
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else None
