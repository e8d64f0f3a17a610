"""Use one GPU through the CUDA runtime: memory, pinned memory, streams and graphs."""

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, cast

import numpy as np
from cuda.bindings import runtime as cudart
from numpy.typing import DTypeLike, NDArray

from flowsr_runtime.errors import FlowsrError, MemoryBudgetError, ProviderError, UsageError

__all__ = ["Buffer", "Device", "Graph", "Staging", "Stream"]

_OUT_OF_MEMORY: Final = 2
_NO_DRIVER: Final = frozenset({3, 35, 100, 803, 804})
"""Not initialized, driver too old, no device, incompatible driver and library."""


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        index: GPU index.
        name: Name from the driver, such as "NVIDIA L4".
        compute_capability: Compute capability, such as "8.9".
        driver: Newest CUDA version that the driver supports, such as "13.0".
    """

    index: int
    name: str
    compute_capability: str
    driver: str

    @classmethod
    def open(cls, index: int) -> "Device":
        """Open a GPU and make it the device of this thread.

        Args:
            index: GPU index.

        Returns:
            The device.

        Raises:
            ProviderError: If there is no driver, or no such device.
        """
        count = _call("cudaGetDeviceCount", cudart.cudaGetDeviceCount())
        if index >= count:
            raise ProviderError(
                f"device must be below {count}, the number of GPUs, got {index}"
            )
        properties = _call("cudaGetDeviceProperties", cudart.cudaGetDeviceProperties(index))
        driver = _call("cudaDriverGetVersion", cudart.cudaDriverGetVersion())
        device = cls(
            index=index,
            name=properties.name.split(b"\0")[0].decode(),
            compute_capability=f"{properties.major}.{properties.minor}",
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
        )
        device.use()
        return device

    def use(self) -> None:
        """Make it the device of the calling thread; CUDA has one per thread."""
        _call("cudaSetDevice", cudart.cudaSetDevice(self.index))


class Stream:
    """A queue of work on the thread's device, independent of the default stream."""

    def __init__(self) -> None:
        flags = cudart.cudaStreamNonBlocking
        self._stream = _call("cudaStreamCreate", cudart.cudaStreamCreateWithFlags(flags))
        self.handle = int(self._stream)

    def synchronize(self) -> None:
        """Wait for all queued work.

        Raises:
            ProviderError: If the work failed.
        """
        _call("cudaStreamSynchronize", cudart.cudaStreamSynchronize(self.handle))

    def wait_for(self, other: int) -> None:
        """Let later work on this stream wait for the current work of another stream.

        Args:
            other: Handle of the other stream.
        """
        flags = cudart.cudaEventDisableTiming
        event = _call("cudaEventCreate", cudart.cudaEventCreateWithFlags(flags))
        try:
            _call("cudaEventRecord", cudart.cudaEventRecord(event, other))
            _call("cudaStreamWaitEvent", cudart.cudaStreamWaitEvent(self.handle, event, 0))
        finally:
            cudart.cudaEventDestroy(event)  # CUDA keeps it until it is reached

    def begin_capture(self) -> None:
        """Record later work instead of running it."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", cudart.cudaStreamBeginCapture(self.handle, mode))

    def end_capture(self) -> "Graph":
        """Return the work queued since `begin_capture`.

        Raises:
            ProviderError: If the work cannot be captured.
        """
        graph = _call("cudaStreamEndCapture", cudart.cudaStreamEndCapture(self.handle))
        try:
            return Graph(_call("cudaGraphInstantiate", cudart.cudaGraphInstantiate(graph, 0)))
        finally:
            cudart.cudaGraphDestroy(graph)

    def close(self) -> None:
        """Destroy the stream."""
        if self.handle:
            cudart.cudaStreamDestroy(self.handle)
        self.handle = 0


class Graph:
    """Captured work, which runs in a single launch."""

    def __init__(self, executable: Any) -> None:
        """Own an instantiated graph; see `Stream.end_capture`."""
        self._executable: Any = executable

    def launch(self, stream: Stream) -> None:
        """Queue the work on a stream."""
        _call("cudaGraphLaunch", cudart.cudaGraphLaunch(self._executable, stream.handle))

    def close(self) -> None:
        """Destroy the graph."""
        if self._executable is not None:
            cudart.cudaGraphExecDestroy(self._executable)
        self._executable = None


class _Memory(ABC):
    """Reusable memory; it must not be in use when it grows."""

    _name: str

    def __init__(self) -> None:
        self.address = 0
        self.size = 0

    def reserve(self, size: int) -> bool:
        """Ensure a minimum size; growing discards the content.

        Args:
            size: Bytes.

        Returns:
            Whether the address has changed.

        Raises:
            MemoryBudgetError: If the device or the machine runs out of memory.
        """
        if self.address and size <= self.size:
            return False
        self.close()  # first: old and new need not fit at the same time
        self.address = int(_call(self._name, self._allocate(max(size, 1)), size))
        self.size = size
        return True

    def close(self) -> None:
        """Free the memory."""
        if self.address:
            self._free(self.address)
        self.address = self.size = 0

    @abstractmethod
    def _allocate(self, size: int) -> tuple[Any, ...]:
        """Return the result of CUDA's allocation."""

    @abstractmethod
    def _free(self, address: int) -> None:
        """Free an address."""


class Buffer(_Memory):
    """Reusable device memory; it must not be in use when it grows."""

    _name = "cudaMalloc"

    def upload(self, staging: "Staging", size: int, stream: Stream) -> None:
        """Queue a copy of the first bytes of pinned memory to this buffer."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        _copy(self.address, staging.address, size, kind, stream)

    def download(self, staging: "Staging", size: int, stream: Stream) -> None:
        """Queue a copy of the first bytes of this buffer to pinned memory."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _copy(staging.address, self.address, size, kind, stream)

    def _allocate(self, size: int) -> tuple[Any, ...]:
        return cast(tuple[Any, ...], cudart.cudaMalloc(size))

    def _free(self, address: int) -> None:
        cudart.cudaFree(address)


class Staging(_Memory):
    """Reusable pinned host memory, which a GPU accesses directly."""

    _name = "cudaHostAlloc"

    def array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return the first bytes as an array, valid until the memory grows or is freed.

        Args:
            shape: Shape of the array.
            dtype: Type of its values.

        Returns:
            A view.
        """
        kind = np.dtype(dtype)
        size = prod(shape) * kind.itemsize
        if size > self.size:
            raise UsageError(f"an array of {size} bytes does not fit in {self.size}")
        block = (ctypes.c_ubyte * size).from_address(self.address)
        values: NDArray[Any] = np.frombuffer(memoryview(block), dtype=kind)
        return values.reshape(shape)

    def _allocate(self, size: int) -> tuple[Any, ...]:
        return cast(tuple[Any, ...], cudart.cudaHostAlloc(size, cudart.cudaHostAllocDefault))

    def _free(self, address: int) -> None:
        cudart.cudaFreeHost(address)


def _copy(target: int, source: int, size: int, kind: Any, stream: Stream) -> None:
    result = cudart.cudaMemcpyAsync(target, source, size, kind, stream.handle)
    _call("cudaMemcpyAsync", result)


def _call(name: str, result: tuple[Any, ...], size: int | None = None) -> Any:
    """Return the values of a CUDA call, or raise the exception for its error code."""
    code, *values = result
    if int(code) != 0:
        raise _translate(name, code, size)
    return values[0] if len(values) == 1 else tuple(values)


def _remedy() -> str:
    """Return the remedy for a missing driver, or one too old for the bindings."""
    versions = cudart.cudaDriverGetVersion()[1], cudart.cudaRuntimeGetVersion()[1]
    driver, needed = (int(version or 0) // 1000 for version in versions)
    if 0 < driver < needed:
        return (
            f"it supports CUDA {driver}, cuda-bindings needs {needed}: update the driver, or "
            f"pip install 'cuda-bindings<{driver + 1}'"
        )
    return "install or update it, or use backend onnxruntime"


def _translate(name: str, code: Any, size: int | None) -> FlowsrError:
    text = cudart.cudaGetErrorString(code)[1]
    words = text.decode() if isinstance(text, bytes) else str(text)
    if int(code) == _OUT_OF_MEMORY:
        amount = "" if size is None else f" for {size / 2**20:.1f} MiB more"
        return MemoryBudgetError(
            f"out of memory{amount} ({name}); give a smaller memory_budget",
            option="memory_budget",
        )
    if int(code) in _NO_DRIVER:
        text = f"no usable NVIDIA driver: {words} (CUDA error {int(code)}); {_remedy()}"
        return ProviderError(text)
    return ProviderError(f"{name} failed: {words} (CUDA error {int(code)})")
