"""Execution context of the double: what has to be set before it runs, and the run itself."""

import threading
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tests.doubles.cuda_runtime import IllegalAddressError, Stream
from tests.doubles.trt_names import Dims, nptype
from tests.doubles.trt_objects import Closed, IOutputAllocator

__all__ = ["ExecutionContext"]

Arrays = dict[str, NDArray[Any]]


class ExecutionContext(Closed):
    """Runs an engine's ONNX file on the CPU with the addresses and shapes that are set."""

    def __init__(self, engine: Any, config: Any, scratch: int | None) -> None:
        self._engine, self._config = engine, config
        self._log, self._cuda, self._plan = engine._log, engine._cuda, engine._plan
        self._scratch = (scratch or 0, engine.device_memory_size_v2 if scratch else 0)
        self._own_scratch = scratch
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, IOutputAllocator] = {}
        self._profile = 0
        self._warm: set[Any] = set()
        self._changes = 0  # a graph that was captured is valid until the next
        self._busy = threading.Lock()
        self._session: Any = None
        self.profiler: Any = None
        # As the engine was built, until it is set: ranges for every layer.
        self.nvtx_verbosity = engine._names["ProfilingVerbosity"].DETAILED
        self._open = False

    def __del__(self) -> None:
        if self._own_scratch is not None:
            self._cuda.cudaFree(self._own_scratch)

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: Any) -> bool:
        known = 0 <= profile_index < self._engine.num_optimization_profiles
        if not known or self._cuda.stream(stream_handle) is None:
            return self._refuse("setOptimizationProfileAsync", f"profile {profile_index}")
        if profile_index != self._profile:
            self._changes += 1
            self._profile = profile_index
            self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        sizes = tuple(int(each) for each in shape)
        if name not in self._engine._inputs:
            return self._refuse("setInputShape", f"no input {name}")
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        ranged = zip(least, sizes, most, strict=False)
        if len(sizes) != len(least) or not all(a <= b <= c for a, b, c in ranged):
            return self._refuse(
                "setInputShape",
                f"Supplied binding dimension {list(sizes)} for {name} exceed min ~ max range, "
                f"minimum dimension in profile is {least}, maximum is {most}",
            )
        self._changes += 1
        self._shapes[name] = sizes
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        if name in self._engine._inputs:
            return Dims(self._shapes.get(name, self._engine.get_tensor_shape(name)))
        if self.missing() or self._plan.data_dependent:
            return Dims([-1] * len(self._engine.get_tensor_shape(name)))
        return Dims(self._compute(self._blank())[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._tensors:
            return self._refuse("setTensorAddress", f"no tensor {name}")
        self._changes += 1
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        if output_allocator is None:
            self._allocators.pop(name, None)
            return True
        if not isinstance(output_allocator, IOutputAllocator):
            raise TypeError("set_output_allocator(): incompatible function arguments.")
        self._allocators[name] = output_allocator
        return True

    def get_output_allocator(self, name: str) -> IOutputAllocator | None:
        return self._allocators.get(name)

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._own_scratch is None, "memory was given to a context that has its own"
        assert int(memory) % 256 == 0, "device memory must be aligned to 256 bytes"
        self._changes += 1
        self._scratch = (int(memory), int(size))

    def update_device_memory_size_for_shapes(self) -> int:
        if self.missing():
            self._refuse("updateDeviceMemorySizeForShapes", "shapes are missing")
            return 0
        pixels = [
            int(np.prod(sizes)) for name, sizes in self._shapes.items() if name == "input"
        ]
        return 4096 + 64 * sum(pixels)

    def infer_shapes(self) -> list[str]:
        missing = self.missing()
        for name in self._plan.shape_inputs:
            if name not in missing:
                least, _, most = self._plan.profiles[self._profile][name]
                values = self._host_values(name)
                if not all(a <= b <= c for a, b, c in zip(least, values, most, strict=True)):
                    raise RuntimeError(f"values of {name} are outside of the profile: {values}")
        return missing

    def missing(self) -> list[str]:
        """Return what is not specified yet (the double's own)."""
        names = []
        for name in self._engine._inputs:
            dynamic = -1 in self._engine.get_tensor_shape(name)
            host = name in self._plan.shape_inputs
            if (dynamic and name not in self._shapes) or (
                host and not self._addresses.get(name)
            ):
                names.append(name)
        return names

    def execute_async_v3(self, stream_handle: Any) -> bool:
        assert self._busy.acquire(blocking=False), "two threads use one context at once"
        try:
            return self._enqueue(stream_handle)
        finally:
            self._busy.release()

    def _enqueue(self, stream_handle: Any) -> bool:
        stream = self._cuda.stream(stream_handle)
        if stream is None or stream.device != self._cuda.current_device():
            return self._refuse("enqueueV3", "the stream is not one of the current device")
        if self.missing():
            return self._refuse("enqueueV3", f"inputs {self.missing()} are not specified")
        unset = [
            name
            for name in self._engine._tensors
            if not self._addresses.get(name) and name not in self._allocators
        ]
        if unset:
            return self._refuse("enqueueV3", f"Address is not set for tensors {unset}")
        if self._scratch[1] < self.update_device_memory_size_for_shapes():
            return self._refuse("enqueueV3", "device memory is not set or too small")
        state = (self._profile, tuple(sorted(self._shapes.items())), self._values_of_host())
        if stream.captured is not None and not self._may_capture(stream, state):
            return self._refuse("enqueueV3", "operation not permitted when stream is capturing")
        if not self._allocate_outputs(stream_handle):
            return self._refuse("enqueueV3", "the output allocator gave no memory")
        self._warm.add(state)
        cache = self._config._runtime_cache
        if cache is not None:
            cache.kernels.add(str(self._shapes.get("input")))
        stream.push(self._work(captured=stream.captured is not None))
        if self.profiler is not None:
            for layer in self._engine._model.graph.node:
                self.profiler.report_layer_time(layer.name or layer.output[0], 0.5)
        return True

    def _may_capture(self, stream: Stream, state: Any) -> bool:
        """Return whether it ran once before with these shapes; else it has state to update."""
        if state in self._warm and not self._plan.data_dependent:
            return True
        stream.invalid = True
        return False

    def _allocate_outputs(self, stream_handle: Any) -> bool:
        for name, allocator in self._allocators.items():
            shape = self._compute(self._blank())[name].shape
            size = int(np.prod(shape)) * self._engine.get_tensor_dtype(name).itemsize
            address = allocator.reallocate_output_async(  # type: ignore[attr-defined]  # the derived class has it
                name, self._addresses.get(name, 0), size, 512, int(stream_handle)
            )
            if not address:
                return False
            self._addresses[name] = int(address)
            allocator.notify_shape(name, Dims(shape))  # type: ignore[attr-defined]  # the same
        return True

    def _work(self, captured: bool) -> Any:
        """Return the device work: everything that is set now is fixed in it."""
        shapes = {name: tuple(self.get_tensor_shape(name)) for name in self._engine._inputs}
        hosts = {name: self._host_values(name).copy() for name in self._plan.shape_inputs}
        addresses, scratch = dict(self._addresses), self._scratch
        changes = self._changes

        def work() -> None:
            unchanged = not captured or changes == self._changes
            assert unchanged, "a context was changed after a graph was captured from it"
            if scratch[1]:
                self._cuda.view(*scratch)[:1] = b"\xff"
            feeds = {
                name: hosts[name] if name in hosts else self._load(name, addresses[name], shape)
                for name, shape in shapes.items()
            }
            for name, array in self._compute(feeds).items():
                data = np.ascontiguousarray(array).tobytes()
                self._cuda.view(addresses[name], len(data))[:] = data

        return work

    def _load(self, name: str, address: int, shape: tuple[int, ...]) -> NDArray[Any]:
        kind = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        view = self._cuda.view(address, int(np.prod(shape)) * kind.itemsize)
        values: NDArray[Any] = np.frombuffer(view, dtype=kind).reshape(shape).copy()
        return values

    def _host_values(self, name: str) -> NDArray[Any]:
        kind = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        count = int(np.prod(tuple(self._engine.get_tensor_shape(name))))
        view = self._cuda.host_view(self._addresses[name], count * kind.itemsize)
        if view is None:
            raise IllegalAddressError(f"shape tensor {name} is not in pinned host memory")
        values: NDArray[Any] = np.frombuffer(view, dtype=kind)
        return values

    def _values_of_host(self) -> Any:
        return tuple(tuple(self._host_values(name)) for name in self._plan.shape_inputs)

    def _blank(self) -> Arrays:
        """Return inputs of the right shapes; the values of shape tensors are the real ones."""
        return {
            name: self._host_values(name)
            if name in self._plan.shape_inputs
            else np.zeros(
                tuple(self.get_tensor_shape(name)), nptype(self._engine.get_tensor_dtype(name))
            )
            for name in self._engine._inputs
        }

    def _compute(self, feeds: Arrays) -> Arrays:
        if self._session is None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self._session = ort.InferenceSession(
                self._plan.onnx, options, providers=["CPUExecutionProvider"]
            )
        names = [each.name for each in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def _refuse(self, call: str, reason: str) -> bool:
        self._log.error(f"IExecutionContext::{call}: Error Code 3: API Usage Error ({reason})")
        return False
