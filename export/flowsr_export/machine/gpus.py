"""Datasheet rates of GPUs that engines are built for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["GPUS", "Gpu", "gpu_like"]


@dataclass(frozen=True)
class Gpu:
    """Rates of a GPU, from its datasheet; no engine reaches them.

    Attributes:
        name: Name in commands.
        capability: Compute capability.
        half: Dense products in float16 or bfloat16 summed in float32, TFLOP/s.
        single: Products in float32 without TF32, TFLOP/s.
        eight: Dense products in int8 or FP8, TOP/s; those of `half` without such units.
        bandwidth: Memory bandwidth, GB/s.
    """

    name: str
    capability: str
    half: float
    single: float
    eight: float
    bandwidth: float

    def seconds(self, kind: str, operations: float) -> float:
        """Return the time of a number of operations, twice the multiply-adds, of a type."""
        rate = {"fp32": self.single, "int8": self.eight, "fp8": self.eight}.get(kind, self.half)
        return operations / (rate * 1e12)


GPUS = (
    Gpu("t4", "7.5", 65, 8.1, 130, 320),
    Gpu("a100", "8.0", 312, 19.5, 624, 2039),
    Gpu("a10", "8.6", 125, 31.2, 250, 600),
    Gpu("rtx-3090", "8.6", 71, 35.6, 284, 936),
    Gpu("rtx-4090", "8.9", 165, 82.6, 660, 1008),
    Gpu("l4", "8.9", 121, 30.3, 242, 300),
    Gpu("l40s", "8.9", 362, 91.6, 733, 864),
    Gpu("h100", "9.0", 989, 67, 1979, 3350),
    Gpu("h200", "9.0", 989, 67, 1979, 4800),
    Gpu("rtx-5090", "12.0", 209, 104.8, 838, 1792),
)
"""GPUs by compute capability; the first of each stands for it."""


def gpu_like(capabilities: Sequence[str], name: str | None = None) -> Gpu | None:
    """Return the GPU of a name, else the first of `GPUS` with one of the capabilities.

    Args:
        capabilities: Compute capabilities such as "8.9"; "8.0+" means that and later ones.
        name: Name of a GPU in `GPUS`.
    """
    if name is not None:
        return next(gpu for gpu in GPUS if gpu.name == name)
    plain = [each.removesuffix("+") for each in capabilities]
    return next((gpu for gpu in GPUS if gpu.capability in plain), None)
