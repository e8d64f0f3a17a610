"""Time that a GPU needs at least for an engine: for its products and for its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowsr_export.engine.layers import Layer
from flowsr_export.machine.gpus import Gpu, gpu_like
from flowsr_export.onnx_graph.multiply_adds import MacCount

__all__ = ["Roofline", "roofline_facts", "roofline_of"]


@dataclass(frozen=True)
class Roofline:
    """Work of one run of an engine at its optimal size, and the least time for it on a GPU.

    Attributes:
        gpu: The GPU.
        operations: Operations by type, twice the multiply-adds of convolutions and products.
        read: Bytes that the layers read, None if they are not known.
        written: Bytes that they write, None if they are not known.
    """

    gpu: Gpu
    operations: Mapping[str, float]
    read: int | None
    written: int | None

    @property
    def product_ms(self) -> float:
        """Least time of the products, in milliseconds."""
        return 1e3 * sum(self.gpu.seconds(kind, n) for kind, n in self.operations.items())

    @property
    def memory_ms(self) -> float | None:
        """Least time of the bytes, in milliseconds, None if they are not known."""
        if self.read is None or self.written is None:
            return None
        return 1e3 * (self.read + self.written) / (self.gpu.bandwidth * 1e9)

    def lines(self) -> list[str]:
        """Describe it in two lines."""
        total = sum(self.operations.values()) / 1e12
        name = self.gpu.name
        work = f"{total:.3f} TFLOP, at least {self.product_ms:.2f} ms on {name}"
        if self.memory_ms is None or self.read is None or self.written is None:
            return [
                work,
                "bytes not known: TensorRT tells them for an engine of one size (--exact)",
            ]
        return [
            work,
            f"{self.read / 1e9:.2f} GB read and {self.written / 1e9:.2f} GB written, at least "
            f"{self.memory_ms:.2f} ms on {name}",
        ]

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "gpu": self.gpu.name,
            "product_ms": round(self.product_ms, 3),
            "memory_ms": None if self.memory_ms is None else round(self.memory_ms, 3),
        }


def roofline_facts(work: MacCount, layers: Sequence[Layer], profiles: int) -> dict[str, Any]:
    """Return the work of one run as JSON values, to be kept with an engine.

    Args:
        work: Multiply-adds at the optimal size.
        layers: Layers of the engine, empty if they are not known.
        profiles: Number of profiles; the layers of several cannot be told apart.

    Returns:
        Operations by type, and the bytes that layers read and write; null if not known.
    """
    operations: dict[str, int] = {}
    for product in work.by_node.values():
        operations[product.type] = operations.get(product.type, 0) + 2 * product.count
    read, written = [each.read for each in layers], [each.written for each in layers]
    known = profiles == 1 and layers and None not in (*read, *written)
    return {
        "operations": operations,
        "bytes_read": sum(filter(None, read)) if known else None,
        "bytes_written": sum(filter(None, written)) if known else None,
    }


def roofline_of(
    facts: Mapping[str, Any], capabilities: Sequence[str], name: str | None = None
) -> Roofline | None:
    """Return the roofline of an engine.

    Args:
        facts: Facts of the engine; those of earlier versions have no "work".
        capabilities: Compute capabilities of the engine.
        name: Name of a GPU in `GPUS`; None for one of the engine's.

    Returns:
        The roofline, None if the work or the GPU is not known.
    """
    work, gpu = facts.get("work"), gpu_like(capabilities, name)
    if work is None or gpu is None:
        return None
    return Roofline(gpu, work["operations"], work["bytes_read"], work["bytes_written"])
