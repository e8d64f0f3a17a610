"""The inputs and the output of one run of an engine."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from flowsr_runtime.cuda.device import Buffer
from flowsr_runtime.cuda.device_array import DeviceView
from flowsr_runtime.errors import MemoryBudgetError, ShapeError

__all__ = ["Destination", "Request", "output_allocator"]


@dataclass(frozen=True)
class Destination:
    """Destination of the requested output.

    Attributes:
        memory: A buffer, which grows as needed, or memory of the caller.
        fetch: Whether the output is also copied to the host.
    """

    memory: Buffer | DeviceView
    fetch: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether the address stays the same for the next run, as CUDA graphs need."""
        return self.fetch or isinstance(self.memory, DeviceView)

    def place(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Provide memory for an array.

        Args:
            shape: Shape of the array.
            dtype: Type of its values.

        Returns:
            Whether memory was moved.

        Raises:
            ShapeError: If the memory of the caller has another shape or type.
            MemoryBudgetError: If the device runs out of memory.
        """
        memory = self.memory
        if isinstance(memory, Buffer):
            return memory.reserve(prod(shape) * dtype.itemsize)
        if (memory.shape, memory.dtype) != (shape, dtype):
            raise ShapeError(
                f"out must be {dtype} of shape {shape}, got {memory.dtype} of shape "
                f"{memory.shape}"
            )
        return False

    def allocator(self, module: Any) -> Any:
        """Return an allocator for an output whose shape is only known during the run.

        Raises:
            ShapeError: If the memory belongs to the caller, and cannot grow.
        """
        if not isinstance(self.memory, Buffer):
            raise ShapeError("out cannot be given: the output's shape is known after the run")
        return output_allocator(module, self.memory)


@dataclass
class Request:
    """The settings of an execution context for one run.

    Attributes:
        profile: Index of the optimization profile.
        output: Name of the requested output.
        shapes: Shapes of the inputs.
        addresses: Addresses of the inputs.
        uploads: Bytes to copy from pinned memory, by input.
        keys: Values that a captured graph depends on.
        results: Shapes of the outputs, as far as known before the run.
        allocators: Allocators of the other outputs.
    """

    profile: int
    output: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, int] = field(default_factory=dict)
    keys: list[Hashable] = field(default_factory=list)
    results: dict[str, tuple[int, ...]] = field(default_factory=dict)
    allocators: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Hashable:
        """Key of the CUDA graph for this run."""
        return (self.profile, self.output, *self.keys)

    @property
    def result(self) -> tuple[int, ...]:
        """Shape of the requested output, known once the run is queued."""
        if self.output in self.results:
            return self.results[self.output]
        return tuple(self.allocators[self.output].shape)

    def add(self, name: str, shape: tuple[int, ...], address: int, key: Hashable) -> None:
        """Add an input."""
        self.shapes[name], self.addresses[name] = shape, address
        self.keys.append((shape, key))

    def check_allocators(self) -> None:
        """Raise the error of an allocator, which cannot pass through TensorRT."""
        for allocator in self.allocators.values():
            if allocator.error is not None:
                raise allocator.error


def output_allocator(module: Any, buffer: Buffer) -> Any:
    """Return an `IOutputAllocator` on a buffer.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        buffer: Buffer that grows as needed.

    Returns:
        The allocator, with the `shape` of the last output and the `error` of a failure.
    """

    class GrowingAllocator(module.IOutputAllocator):  # type: ignore[misc]  # of the library
        def __init__(self) -> None:
            module.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()
            self.error: MemoryBudgetError | None = None

        def reallocate_output_async(
            self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            try:
                buffer.reserve(size)
            except MemoryBudgetError as error:
                self.error = error
                return 0
            return buffer.address

        def reallocate_output(
            self, tensor_name: str, memory: int, size: int, alignment: int
        ) -> int:
            return self.reallocate_output_async(tensor_name, memory, size, alignment, 0)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(map(int, shape))

    return GrowingAllocator()
