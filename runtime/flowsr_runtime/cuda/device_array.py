"""Arrays on a GPU, given and taken without a copy by DLPack or `__cuda_array_interface__`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.cuda.device import Buffer, Device, Staging, Stream
from flowsr_runtime.cuda.dlpack import CPU, CUDA, borrow, lend
from flowsr_runtime.errors import ShapeError

__all__ = ["DeviceArray", "DeviceView", "is_device_array", "view_of"]

_INTERFACE: Final = "__cuda_array_interface__"


class DeviceArray:
    """An array on a GPU that owns its memory; the values are there when you get it.

    PyTorch (`torch.from_dlpack`), CuPy, JAX and Numba take it as it is. The memory is freed
    when neither it nor an array made of it is alive.
    """

    def __init__(
        self, memory: Buffer, shape: tuple[int, ...], dtype: np.dtype[Any], device: Device
    ) -> None:
        """Take over memory.

        Args:
            memory: Memory of `device` that holds the values.
            shape: Shape of the array.
            dtype: Type of its values.
            device: Where it lies.
        """
        self.shape = shape
        self.dtype = dtype
        self.device = device
        self._memory = _Memory(memory)

    @property
    def address(self) -> int:
        """Address of the first value."""
        return self._memory.buffer.address

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,  # nothing is to be waited for
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device.index

    def __dlpack__(self, **_: object) -> object:
        """Return a capsule; nothing is to be waited for, so `stream` makes no difference."""
        device = self.__dlpack_device__()
        return lend(self.address, self.shape, self.dtype, device=device, owner=self._memory)

    def numpy(self) -> NDArray[Any]:
        """Return a copy in the host's memory."""
        self.device.use()
        size = prod(self.shape) * self.dtype.itemsize
        stream, staging = Stream(), Staging()
        try:
            staging.reserve(size)
            self._memory.buffer.download(staging, size, stream)
            stream.synchronize()
            values: NDArray[Any] = staging.array(self.shape, self.dtype).copy()
            return values
        finally:
            stream.close()
            staging.close()


class _Memory:
    """Memory that is freed with its last user."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def __del__(self) -> None:
        self.buffer.close()


@dataclass(frozen=True)
class DeviceView:
    """An array of somebody else on a GPU.

    Attributes:
        address: Of its first value; the values lie row after row.
        shape: Its shape.
        dtype: Type of its values.
        release: Call it once, when nothing uses the memory any more.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    release: Callable[[], None]


def is_device_array(value: object) -> bool:
    """Return whether a value says that it lies on a GPU."""
    if hasattr(value, _INTERFACE):
        return True
    describe = getattr(value, "__dlpack_device__", None)
    return describe is not None and int(describe()[0]) != CPU


def view_of(name: str, value: Any, device: Device, stream: Stream) -> DeviceView:
    """Take an array of any library that lies on a device, without a copy.

    Args:
        name: What to call it in messages.
        value: An array with `__dlpack__` or `__cuda_array_interface__`.
        device: The device on which it must lie.
        stream: What is queued on it from now sees the array's values.

    Returns:
        The view.

    Raises:
        ShapeError: If it lies elsewhere, or not row after row.
    """
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(name, value, device, stream)
    return _from_interface(name, getattr(value, _INTERFACE), stream)


def _from_dlpack(name: str, value: Any, device: Device, stream: Stream) -> DeviceView:
    kind, index = (int(part) for part in value.__dlpack_device__())
    if (kind, index) != (CUDA, device.index):
        raise ShapeError(
            f"{name} must lie on CUDA device {device.index}, got DLPack device {kind}:{index}"
        )
    borrowed = borrow(value.__dlpack__(stream=stream.handle))
    if borrowed.strides is not None:
        borrowed.release()
        raise _scattered(name, borrowed.strides)
    return DeviceView(borrowed.address, borrowed.shape, borrowed.dtype, borrowed.release)


def _from_interface(name: str, facts: Mapping[str, Any], stream: Stream) -> DeviceView:
    shape, dtype = tuple(facts["shape"]), np.dtype(facts["typestr"])
    strides = facts.get("strides")
    plain = tuple(prod(shape[axis + 1 :]) * dtype.itemsize for axis in range(len(shape)))
    if strides is not None and tuple(strides) != plain:
        raise _scattered(name, tuple(strides))
    other = facts.get("stream")
    if other is not None:
        stream.wait_for(int(other))
    return DeviceView(int(facts["data"][0]), shape, dtype, _nothing)


def _scattered(name: str, strides: tuple[int, ...]) -> ShapeError:
    return ShapeError(f"{name} must lie row after row (contiguous), got strides {strides}")


def _nothing() -> None:
    """An interface gives no memory away: its owner keeps it alive during the call."""
