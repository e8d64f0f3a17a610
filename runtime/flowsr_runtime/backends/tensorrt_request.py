"""One run of an engine: where its inputs are, and where its output goes."""

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
    """Where the output that is asked for goes.

    Attributes:
        buffer: Memory that grows as needed, None with `view`.
        view: Somebody else's memory.
        fetch: Whether it is copied to the host as well.
    """

    buffer: Buffer | None
    view: DeviceView | None = None
    fetch: bool = False

    @property
    def is_fixed(self) -> bool:
        """Whether the next run can find it at the same address, as a CUDA graph needs."""
        return self.fetch or self.view is not None

    @property
    def address(self) -> int:
        """Where it is now."""
        return self.view.address if self.view is not None else self._buffer().address

    def place(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        """Make room for an array.

        Args:
            shape: Its shape.
            dtype: Type of its values.

        Returns:
            Whether memory was moved.

        Raises:
            ShapeError: If somebody else's memory is of another shape or type.
            MemoryBudgetError: If the device's memory does not suffice.
        """
        if self.view is None:
            return self._buffer().reserve(prod(shape) * dtype.itemsize)
        if (self.view.shape, self.view.dtype) != (shape, dtype):
            raise ShapeError(
                f"out must be {dtype} of shape {shape}, got {self.view.dtype} of shape "
                f"{self.view.shape}"
            )
        return False

    def allocator(self, module: Any) -> Any:
        """Return what gives the output memory during the run, when its shape is known.

        Raises:
            ShapeError: If the memory is somebody else's, which cannot grow.
        """
        if self.view is not None:
            raise ShapeError("out cannot be given: the output's shape is known after the run")
        return output_allocator(module, self._buffer())

    def _buffer(self) -> Buffer:
        assert self.buffer is not None, "a destination has a buffer or a view"
        return self.buffer


@dataclass
class Request:
    """Everything that a run sets in an execution context.

    Attributes:
        profile: Index of the optimization profile.
        output: Name of the output that is asked for.
        shapes: Shapes of the inputs.
        addresses: Where the inputs are.
        uploads: Bytes to copy from pinned memory, by input.
        keys: What a captured graph depends on.
        results: Shapes of the outputs that are known before the run.
        allocators: What gives the other outputs memory.
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
        """What tells this run from others that need another graph."""
        return (self.profile, self.output, *self.keys)

    @property
    def result(self) -> tuple[int, ...]:
        """Shape of the output that is asked for; ask when the run is queued."""
        if self.output in self.results:
            return self.results[self.output]
        return tuple(self.allocators[self.output].shape)

    def add(self, name: str, shape: tuple[int, ...], address: int, key: Hashable) -> None:
        """Say where an input is."""
        self.shapes[name], self.addresses[name] = shape, address
        self.keys.append((shape, key))

    def check_allocators(self) -> None:
        """Raise what an allocator could not raise through TensorRT."""
        for allocator in self.allocators.values():
            if allocator.error is not None:
                raise allocator.error


def output_allocator(module: Any, buffer: Buffer) -> Any:
    """Return an `IOutputAllocator` that gives memory of a buffer.

    Args:
        module: `tensorrt` or `tensorrt_rtx`.
        buffer: Grows to what is needed.

    Returns:
        The allocator; its `shape` is that of the last output, its `error` why it gave none.
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
            self.shape = tuple(int(each) for each in shape)

    return GrowingAllocator()
