"""A CUDA runtime without a GPU that enforces the rules of `cuda.bindings.runtime`.

Device memory is a bytearray behind an address that nothing else can read. Work on a stream
waits until the stream is synchronized, so that a program which reads a result too early, or
reuses or frees a buffer too early, gets wrong values or an illegal address. Calls return tuples
with the error first, as the bindings do. Stricter than CUDA: an asynchronous copy takes pinned
host memory only.
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

__all__ = ["CudaError", "FakeCuda", "Gpu", "Stream"]

DEVICE_BASE = 0x7F00_0000_0000
ALIGNMENT = 512
POISON = 0xFF  # NaN in every float type


class CudaError(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class MemcpyKind(IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3
    cudaMemcpyDefault = 4


class CaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


OK = CudaError.cudaSuccess
INVALID = CudaError.cudaErrorInvalidValue
Work = Callable[[], None]


@dataclass(frozen=True)
class Gpu:
    """A device as the double plays it."""

    name: str = "Double L4"
    major: int = 8
    minor: int = 9
    memory: int = 1 << 30

    @property
    def compute_capability(self) -> str:
        return f"{self.major}.{self.minor}"


@dataclass
class Stream:
    """A stream and the work that waits on it."""

    device: int
    queue: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None
    invalid: bool = False
    lock: Any = field(default_factory=threading.RLock, repr=False)

    def push(self, work: Work) -> None:
        (self.queue if self.captured is None else self.captured).append(work)

    def drain(self, most: int | None = None) -> None:
        with self.lock:
            for _ in range(len(self.queue) if most is None else most):
                self.queue.pop(0)()


class IllegalAddressError(Exception):
    """Device work touched memory that is not its own."""


class FakeCuda:
    """One machine's runtime; hand it in where `cuda.bindings.runtime` is expected."""

    cudaError_t = CudaError
    cudaMemcpyKind = MemcpyKind
    cudaStreamCaptureMode = CaptureMode
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(self, *gpus: Gpu, driver: bool = True) -> None:
        self.gpus, self.driver = list(gpus), driver
        self.memory: dict[int, tuple[int, bytearray]] = {}
        self.pinned: dict[int, Any] = {}
        self.handles: dict[int, Any] = {}
        self.calls: list[str] = []
        self.most_used = 0
        self._next_address, self._next_handle = DEVICE_BASE, 16
        self._local = threading.local()
        self._sticky = OK
        self._defaults = {1: Stream(0), 2: Stream(0)}  # of the process and of the thread
        self._lock = threading.RLock()

    # What tests ask.

    @property
    def used(self) -> int:
        return sum(len(data) for _, data in self.memory.values())

    def leaks(self) -> dict[str, int]:
        """Return what was not given back, by kind."""
        kinds = {"memory": len(self.memory), "pinned": len(self.pinned)}
        kinds["handles"] = len(self.handles)
        return {kind: count for kind, count in kinds.items() if count}

    def current_device(self) -> int:
        return getattr(self._local, "device", 0)

    def current_gpu(self) -> Gpu | None:
        usable = self.driver and self.gpus
        return self.gpus[self.current_device()] if usable else None

    def view(self, address: int, size: int) -> memoryview:
        """Return device memory for device work; the double of TensorRT computes in it."""
        for start, (_, data) in self.memory.items():
            if start <= address and address + size <= start + len(data):
                return memoryview(data)[address - start : address - start + size]
        raise IllegalAddressError(f"{size} bytes at {address:#x}")

    def host_view(self, address: int, size: int) -> memoryview | None:
        """Return pinned host memory, None if it is not."""
        for start, block in self.pinned.items():
            if start <= address and address + size <= start + len(block):
                return memoryview(block)[address - start : address - start + size].cast("B")
        return None

    def stream(self, handle: Any) -> Stream | None:
        found = self._defaults.get(int(handle)) or self.handles.get(int(handle))
        return found if isinstance(found, Stream) else None

    # Devices.

    def _device_error(self) -> CudaError:
        if not self.driver:
            return CudaError.cudaErrorInsufficientDriver
        return self._sticky if self.gpus else CudaError.cudaErrorNoDevice

    def cudaGetDeviceCount(self) -> tuple[CudaError, int | None]:
        error = self._device_error()
        return (error, None) if error else (OK, len(self.gpus))

    def cudaSetDevice(self, device: int) -> tuple[CudaError]:
        error = self._device_error()
        if error == OK and not 0 <= device < len(self.gpus):
            error = CudaError.cudaErrorInvalidDevice
        if error == OK:
            self._local.device = device
        return (error,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[CudaError, Any]:
        error = self._device_error()
        if error or not 0 <= device < len(self.gpus):
            return error or CudaError.cudaErrorInvalidDevice, None
        gpu = self.gpus[device]
        properties = SimpleNamespace(name=gpu.name.encode(), major=gpu.major, minor=gpu.minor)
        return OK, properties

    def cudaMemGetInfo(self) -> tuple[CudaError, int | None, int | None]:
        gpu = self.current_gpu()
        if gpu is None:
            return self._device_error(), None, None
        return OK, gpu.memory - self.used, gpu.memory

    def cudaDriverGetVersion(self) -> tuple[CudaError, int]:
        return OK, 13000 if self.driver else 0

    def cudaRuntimeGetVersion(self) -> tuple[CudaError, int]:
        return OK, 13050

    def cudaGetErrorName(self, error: CudaError) -> tuple[CudaError, bytes]:
        return OK, error.name.encode()

    def cudaGetErrorString(self, error: CudaError) -> tuple[CudaError, bytes]:
        words = {2: "out of memory", 35: "CUDA driver version is insufficient"}
        return OK, (words.get(int(error)) or error.name).encode()

    def cudaGetLastError(self) -> tuple[CudaError]:
        return (self._sticky,)

    # Memory.

    def cudaMalloc(self, size: int) -> tuple[CudaError, int | None]:
        self.calls.append("cudaMalloc")
        error = self._device_error() or self._unsafe_call()
        gpu = self.current_gpu()
        if error or gpu is None:
            return error, None
        with self._lock:
            if self.used + size > gpu.memory:
                return CudaError.cudaErrorMemoryAllocation, None
            address = self._next_address
            self._next_address += size + 2 * ALIGNMENT - size % ALIGNMENT
            self.memory[address] = (self.current_device(), bytearray([POISON]) * size)
            self.most_used = max(self.most_used, self.used)
        return OK, address

    def cudaFree(self, address: int) -> tuple[CudaError]:
        error = self._device_error() or self._unsafe_call()
        known = address == 0 or self.memory.pop(int(address), None) is not None
        return (error or (OK if known else INVALID),)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[CudaError, int | None]:
        self.calls.append("cudaHostAlloc")
        error = self._device_error() or self._unsafe_call()
        if error:
            return error, None
        block = (ctypes.c_ubyte * size)(*([POISON] * min(size, 64)))
        self.pinned[ctypes.addressof(block)] = block
        return OK, ctypes.addressof(block)

    def cudaFreeHost(self, address: int) -> tuple[CudaError]:
        return (OK if self.pinned.pop(int(address), None) is not None else INVALID,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: MemcpyKind, stream: Any
    ) -> tuple[CudaError]:
        target = self.stream(stream)
        if target is None or target.device != self.current_device():
            return (CudaError.cudaErrorInvalidResourceHandle,)
        into_host, from_host = int(kind) in (0, 2), int(kind) in (0, 1)
        ends = [(int(dst), into_host), (int(src), from_host)]
        if any(host and self.host_view(end, count) is None for end, host in ends):
            return (INVALID,)

        def copy() -> None:
            (to, from_) = (
                self.host_view(end, count) if host else self.view(end, count)
                for end, host in ends
            )
            if to is None or from_ is None:
                raise IllegalAddressError("pinned memory was freed before it was copied")
            to[:] = from_

        target.push(copy)
        return (OK,)

    # Streams and events.

    def _add(self, thing: Any) -> int:
        with self._lock:
            self._next_handle += 16
            self.handles[self._next_handle] = thing
            return self._next_handle

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[CudaError, int | None]:
        error = self._device_error()
        return (error, None) if error else (OK, self._add(Stream(self.current_device())))

    def cudaStreamDestroy(self, stream: Any) -> tuple[CudaError]:
        return (OK if self.handles.pop(int(stream), None) else INVALID,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[CudaError]:
        target = self.stream(stream)
        if target is None:
            return (CudaError.cudaErrorInvalidResourceHandle,)
        if target.captured is not None:
            target.invalid = True
            return (CudaError.cudaErrorStreamCaptureUnsupported,)
        try:
            target.drain()
        except IllegalAddressError:
            self._sticky = CudaError.cudaErrorIllegalAddress
        return (self._sticky,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[CudaError, int]:
        return OK, self._add(SimpleNamespace(reach=lambda: None))

    def cudaEventDestroy(self, event: Any) -> tuple[CudaError]:
        return (OK if self.handles.pop(int(event), None) else INVALID,)

    def cudaEventRecord(self, event: Any, stream: Any) -> tuple[CudaError]:
        target, mark = self.stream(stream), self.handles[int(event)]
        if target is None:
            return (CudaError.cudaErrorInvalidResourceHandle,)
        passed: list[bool] = []
        target.push(lambda: passed.append(True))

        def reach() -> None:
            while not passed:
                target.drain(1)

        mark.reach = reach
        return (OK,)

    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> tuple[CudaError]:
        target = self.stream(stream)
        if target is None:
            return (CudaError.cudaErrorInvalidResourceHandle,)
        target.push(self.handles[int(event)].reach)
        return (OK,)

    # Graphs.

    def _unsafe_call(self) -> CudaError:
        """Return the error of a call that may not be made while this thread captures."""
        target = getattr(self._local, "capturing", None)
        if target is None:
            return OK
        target.invalid = True
        return CudaError.cudaErrorStreamCaptureUnsupported

    def cudaStreamBeginCapture(self, stream: Any, mode: int) -> tuple[CudaError]:
        target = self.stream(stream)
        if target is None or target.captured is not None:
            return (INVALID,)
        target.captured, target.invalid = [], False
        self._local.capturing = target
        return (OK,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[CudaError, int | None]:
        target = self.stream(stream)
        self._local.capturing = None
        if target is None or target.captured is None:
            return INVALID, None
        works, target.captured = target.captured, None
        if target.invalid:
            return CudaError.cudaErrorStreamCaptureInvalidated, None
        return OK, self._add(("graph", works))

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[CudaError, int]:
        return OK, self._add(("exec", list(self.handles[int(graph)][1])))

    def cudaGraphLaunch(self, graph_exec: Any, stream: Any) -> tuple[CudaError]:
        self.calls.append("cudaGraphLaunch")
        kind, works = self.handles[int(graph_exec)]
        target = self.stream(stream)
        if kind != "exec" or target is None:
            return (INVALID,)
        for work in works:
            target.push(work)
        return (OK,)

    def cudaGraphExecDestroy(self, graph_exec: Any) -> tuple[CudaError]:
        return (OK if self.handles.pop(int(graph_exec), None) else INVALID,)

    def cudaGraphDestroy(self, graph: Any) -> tuple[CudaError]:
        return (OK if self.handles.pop(int(graph), None) else INVALID,)
