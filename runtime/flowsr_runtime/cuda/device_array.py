"""Exchange GPU arrays without copies, by DLPack or `__cuda_array_interface__`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.cuda.device import Buffer, Device, Staging, Stream
from flowsr_runtime.cuda.dlpack import CUDA, borrow, is_device_array, lend
from flowsr_runtime.errors import ShapeError

__all__ = ["DeviceArray", "DeviceView", "is_device_array", "view_of"]

_INTERFACE: Final = "__cuda_array_interface__"


class DeviceArray:
    """A complete array on a GPU that owns its memory.

    PyTorch (`torch.from_dlpack`), CuPy, JAX and Numba accept it. The memory is freed with the
    last array that refers to it.
    """

    def __init__(
        self, memory: Buffer, shape: tuple[int, ...], dtype: np.dtype[Any], device: Device
    ) -> None:
        """Own memory.

        Args:
            memory: Memory of `device` that holds the values.
            shape: Shape of the array.
            dtype: Type of its values.
            device: Device of the memory.
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
            "stream": None,  # the values are complete
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device.index

    def __dlpack__(self, **_: object) -> object:
        """Return a capsule; the values are complete, so `stream` is ignored."""
        device = self.__dlpack_device__()
        return lend(self.address, self.shape, self.dtype, device=device, owner=self._memory)

    def numpy(self) -> NDArray[Any]:
        """Return a copy in host memory."""
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
    """Memory that is freed with its last reference."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def __del__(self) -> None:
        self.buffer.close()


@dataclass(frozen=True)
class DeviceView:
    """An array on a GPU that belongs to another library.

    Attributes:
        address: Address of the first value; the values are contiguous.
        shape: Shape of the array.
        dtype: Type of its values.
        release: Returns the memory to its owner; call it once.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    release: Callable[[], None]


def view_of(name: str, value: Any, device: Device, stream: Stream) -> DeviceView:
    """View an array of any library on a device, without a copy.

    Args:
        name: Name of the array in messages.
        value: An array with `__dlpack__` or `__cuda_array_interface__`.
        device: Required device.
        stream: Stream whose later work reads the array.

    Returns:
        The view.

    Raises:
        ShapeError: If the array is on another device, or not contiguous.
    """
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(name, value, device, stream)
    return _from_interface(name, getattr(value, _INTERFACE), stream)


def _from_dlpack(name: str, value: Any, device: Device, stream: Stream) -> DeviceView:
    kind, index = (int(part) for part in value.__dlpack_device__())
    if (kind, index) != (CUDA, device.index):
        raise ShapeError(
            f"{name} must be on CUDA device {device.index}, got DLPack device {kind}:{index}"
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
    # The owner of an interface keeps its memory alive during the call.
    return DeviceView(int(facts["data"][0]), shape, dtype, lambda: None)


def _scattered(name: str, strides: tuple[int, ...]) -> ShapeError:
    return ShapeError(f"{name} must be contiguous, got strides {strides}")
