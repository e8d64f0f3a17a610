"""A worker of an engine: execution context, stream, buffers and CUDA graphs."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.engines.tensorrt_log import TensorrtLog
from flowsr_runtime.backends.engines.tensorrt_request import Destination, Request
from flowsr_runtime.cuda.device import Buffer, Device, Graph, Staging, Stream
from flowsr_runtime.cuda.device_array import DeviceArray, DeviceView, is_device_array, view_of
from flowsr_runtime.cuda.graph_cache import Captured, GraphCache
from flowsr_runtime.cuda.nvtx import is_profiled, nvtx_range
from flowsr_runtime.errors import FlowsrError, MemoryBudgetError, ProviderError, ShapeError

__all__ = ["TensorrtWorker"]

logger = logging.getLogger(__name__)

_LEAST_SCRATCH: Final = 512
"""Bytes of scratch memory that every context needs, also for shapes that use none."""


class TensorrtWorker:
    """Runs an engine for one thread at a time, and waits for each result."""

    def __init__(
        self,
        module: Any,
        engine: Any,
        config: Any,
        device: Device,
        log: TensorrtLog,
        graphs: int,
    ) -> None:
        """Create an execution context; runs allocate device memory as needed.

        Args:
            module: `tensorrt` or `tensorrt_rtx`.
            engine: The deserialized engine.
            config: Runtime configuration of the engine, with memory managed by the user.
            device: The calling thread's device.
            log: Log of TensorRT.
            graphs: Largest number of CUDA graphs, 0 for none.

        Raises:
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If TensorRT creates no context.
        """
        self.graphs = GraphCache(graphs)
        self.why_no_graphs: str | None = None
        self._module, self._engine, self._config = module, engine, config
        self._device, self._log = device, log
        self._context = self._new_context()
        self._stream = Stream()
        self._scratch = Buffer()
        self._staging: dict[str, Staging] = {}
        self._buffers: dict[str, Buffer] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = module.TensorIOMode.INPUT
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == inputs]
        self.outputs = [name for name in names if name not in self.inputs]

    def run(self, profile: int, feeds: Mapping[str, Any], output: str) -> NDArray[Any]:
        """Run and fetch one output.

        Args:
            profile: Index of the optimization profile.
            feeds: The inputs by name, arrays on the host or the device.
            output: Name of the output.

        Returns:
            A new array of the output's type.

        Raises:
            ShapeError: If an input is missing, of another type, or not readable.
            BundleError: If the profile does not take the shapes.
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If TensorRT or the device fails.
        """
        with nvtx_range("engine"), self._request(profile, feeds, output) as request:
            self._go(request, Destination(self._buffer(output), fetch=True))
            return np.array(self._pinned(output).array(request.result, self._dtype(output)))

    def run_device(
        self, profile: int, feeds: Mapping[str, Any], output: str, out: Any = None
    ) -> Any:
        """Run and leave one output on the device.

        Args:
            profile: Index of the optimization profile.
            feeds: The inputs by name, arrays on the host or the device.
            output: Name of the output.
            out: Array on the device to write to, None for a new one.

        Returns:
            `out`, or a new `DeviceArray`.

        Raises:
            ShapeError: As `run`; or if `out` has another shape or type.
            BundleError: As `run`.
            MemoryBudgetError: As `run`.
            ProviderError: As `run`.
        """
        with nvtx_range("engine"), self._request(profile, feeds, output) as request:
            if out is not None:
                view = self._borrow("out", out, output)
                try:
                    request.keys.append(view.address)
                    self._go(request, Destination(view))
                finally:
                    self._settle([view])
                return out
            fresh = Buffer()
            try:
                self._go(request, Destination(fresh))
                return DeviceArray(fresh, request.result, self._dtype(output), self._device)
            except BaseException:
                fresh.close()
                raise

    def layer_times(
        self, profile: int, feeds: Mapping[str, Any], output: str, runs: int
    ) -> dict[str, list[float]]:
        """Measure every layer.

        Args:
            profile: Index of the optimization profile.
            feeds: The inputs by name.
            output: Name of the output.
            runs: Number of runs, after one that is not measured.

        Returns:
            Milliseconds of each run by layer, in the order of the engine.

        Raises:
            FlowsrError: As `run`.
        """
        times: dict[str, list[float]] = {}

        class Profiler(self._module.IProfiler):  # type: ignore[name-defined,misc]  # the library's
            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms)

        self.run(profile, feeds, output)
        profiler = Profiler()
        self._context.profiler = profiler
        for _ in range(runs):
            self.run(profile, feeds, output)
        self._context = self._new_context()  # a context keeps its profiler
        return times

    def close(self) -> None:
        """Free all resources; the worker cannot run after that."""
        self._device.use()
        self.graphs.clear()
        self._context = None  # before its memory and its stream
        for buffer in (*self._buffers.values(), self._scratch):
            buffer.close()
        for staging in self._staging.values():
            staging.close()
        self._stream.close()

    @contextmanager
    def _request(
        self, profile: int, feeds: Mapping[str, Any], output: str
    ) -> Iterator[Request]:
        """Give every input an address; release borrowed arrays after the run."""
        self._device.use()
        if set(feeds) != set(self.inputs):
            raise ShapeError(f"the engine takes {sorted(self.inputs)}, got {sorted(feeds)}")
        request, views = Request(profile, output), list[DeviceView]()
        try:
            for name in self.inputs:
                value = feeds[name]
                if is_device_array(value):
                    views.append(self._borrow(name, value, name))
                    view = views[-1]
                    request.add(name, view.shape, view.address, view.address)
                else:
                    self._stage(request, name, np.asarray(value))
            yield request
        finally:
            self._settle(views)

    def _borrow(self, label: str, value: Any, name: str) -> DeviceView:
        """Use an array of the caller on the device as a tensor of the engine."""
        if self._is_on_host(name):
            raise ShapeError(f"{label} must be an array on the host, where TensorRT reads it")
        view = view_of(label, value, self._device, self._stream)
        if view.dtype != self._dtype(name):
            view.release()
            raise ShapeError(f"{label} must be {self._dtype(name)}, got {view.dtype}")
        return view

    def _settle(self, views: list[DeviceView]) -> None:
        """Release arrays after all work on the stream."""
        with suppress(FlowsrError):  # the run has raised its own error already
            self._stream.synchronize()
        for view in views:
            view.release()

    def _stage(self, request: Request, name: str, array: NDArray[Any]) -> None:
        """Copy a host array to pinned memory, which the run reads."""
        if array.dtype != self._dtype(name):
            raise ShapeError(f"{name} must be {self._dtype(name)}, got {array.dtype}")
        staging = self._pinned(name)
        self._moved(staging.reserve(array.nbytes))
        staging.array(array.shape, array.dtype)[...] = array
        address = staging.address
        if not self._is_on_host(name):
            self._moved(self._buffer(name).reserve(array.nbytes))
            address, request.uploads[name] = self._buffer(name).address, array.nbytes
        # A captured graph holds the values that decide shapes; other values are copied per run.
        fixed = self._is_on_host(name) or self._engine.is_shape_inference_io(name)
        request.add(name, array.shape, address, array.tobytes() if fixed else None)

    def _go(self, request: Request, destination: Destination) -> None:
        """Run and wait, with a graph if one was captured."""
        captured = self.graphs.get(request.key) if destination.is_fixed else None
        if captured is not None:
            request.results.update(captured.shapes)
            captured.graph.launch(self._stream)
            self._stream.synchronize()
            return
        self.graphs.counters.plain += 1
        context = self._context_for(request, destination)
        self._set(context, request)
        self._place(context, request, destination)
        self._enqueue(context, request, destination)
        self._stream.synchronize()
        if context is not self._context:
            self._capture(context, request, destination)

    def _context_for(self, request: Request, destination: Destination) -> Any:
        """Return the context for a run, a new one if a graph will be captured from it.

        TensorRT's rule: a graph is valid as long as its context does not change.
        """
        possible = destination.is_fixed and self.why_no_graphs is None
        if possible and self.graphs.is_due(request.key):
            try:
                return self._new_context()
            except (MemoryBudgetError, ProviderError) as error:
                self._no_graphs(str(error))
        return self._context

    def _set(self, context: Any, request: Request) -> None:
        """Set profile, shapes, input addresses and memory of a context."""
        profile = request.profile
        if context.active_optimization_profile != profile:
            if not context.set_optimization_profile_async(profile, self._stream.handle):
                raise self._log.failure(f"select profile {profile}")
            self._stream.synchronize()
        for name, shape in request.shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._log.refusal(f"{name} of shape {shape}")
            self._set_address(context, name, request.addresses[name])
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise self._log.refusal(f"these inputs ({error})") from error
        if missing:
            raise self._log.refusal(f"a run without {', '.join(missing)}")
        needed = int(context.update_device_memory_size_for_shapes())
        self._moved(self._scratch.reserve(max(needed, _LEAST_SCRATCH)))
        context.set_device_memory(self._scratch.address, self._scratch.size)

    def _place(self, context: Any, request: Request, destination: Destination) -> None:
        """Give every output an address, or an allocator if its shape is not known yet."""
        for name in self.outputs:
            requested = name == request.output
            place = destination if requested else Destination(self._buffer(name))
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            if -1 in shape:
                self._no_graphs(f"the shape of {name} is only known after the run")
                request.allocators[name] = place.allocator(self._module)
                context.set_output_allocator(name, request.allocators[name])
                continue
            request.results[name] = shape
            moved = place.place(shape, self._dtype(name))
            if requested and place.fetch:
                size = prod(shape) * self._dtype(name).itemsize
                moved |= self._pinned(name).reserve(size)
            self._moved(moved and (place.is_fixed or not requested))
            if context.get_output_allocator(name) is not None:
                context.set_output_allocator(name, None)
            self._set_address(context, name, place.memory.address)

    def _enqueue(self, context: Any, request: Request, destination: Destination) -> None:
        """Queue the copies and the run."""
        for name, size in request.uploads.items():
            self._buffer(name).upload(self._pinned(name), size, self._stream)
        if not context.execute_async_v3(self._stream.handle):
            request.check_allocators()
            raise self._log.failure("run")
        if destination.fetch:
            name = request.output
            size = prod(request.result) * self._dtype(name).itemsize
            self._pinned(name).reserve(size)
            self._buffer(name).download(self._pinned(name), size, self._stream)

    def _capture(self, context: Any, request: Request, destination: Destination) -> None:
        """Capture the previous run as a graph, or log the reason why not."""
        if request.allocators:
            return
        try:
            graph = self._recorded(context, request, destination)
        except (MemoryBudgetError, ProviderError) as error:
            self._no_graphs(str(error))
            return
        self.graphs.put(request.key, Captured(graph, context, dict(request.results)))

    def _recorded(self, context: Any, request: Request, destination: Destination) -> Graph:
        self._stream.begin_capture()
        try:
            self._enqueue(context, request, destination)
        except FlowsrError:
            with suppress(FlowsrError):
                self._stream.end_capture().close()
            raise
        return self._stream.end_capture()

    def _no_graphs(self, reason: str) -> None:
        if self.why_no_graphs is None and self.graphs.limit:
            logger.warning("CUDA graphs are not used: %s", reason)
        self.why_no_graphs = self.why_no_graphs or reason

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise self._log.failure("create an execution context")
        if not is_profiled():
            # Engines are built with detailed layers, whose NVTX ranges cost time in every run.
            context.nvtx_verbosity = self._module.ProfilingVerbosity.NONE
        return context

    def _set_address(self, context: Any, name: str, address: int) -> None:
        if not context.set_tensor_address(name, address):
            raise self._log.failure(f"take the address of {name}")

    def _moved(self, moved: bool) -> None:
        """Drop the graphs if memory that they may use has moved."""
        if moved:
            self.graphs.clear()

    def _buffer(self, name: str) -> Buffer:
        return self._buffers.setdefault(name, Buffer())

    def _pinned(self, name: str) -> Staging:
        return self._staging.setdefault(name, Staging())

    def _is_on_host(self, name: str) -> bool:
        places = self._module.TensorLocation
        return bool(self._engine.get_tensor_location(name) == places.HOST)

    def _dtype(self, name: str) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(
            self._module.nptype(self._engine.get_tensor_dtype(name))
        )
        return dtype
