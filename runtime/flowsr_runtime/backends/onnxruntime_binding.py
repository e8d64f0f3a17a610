"""Run ONNX Runtime on arrays of the device (IOBinding), and with CUDA graphs."""

import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.stages import Features
from flowsr_runtime.cuda.dlpack import CPU, CUDA, borrow, lend
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import ShapeError

__all__ = ["GraphRunner", "OrtArray", "run_bound", "run_features"]

_DEVICE_TYPES: Final = {"cpu": CPU, "cuda": CUDA}
_GRAPH_ID: Final = "gpu_graph_id"
_NO_GRAPH: Final = "-1"


class OrtArray:
    """An output on the device that computed it, complete.

    PyTorch (`torch.from_dlpack`), CuPy, JAX and NumPy (on the CPU) accept it.
    """

    def __init__(self, value: Any, device: tuple[int, int]) -> None:
        """Wrap a value of ONNX Runtime.

        Args:
            value: An `OrtValue`.
            device: (DLPack device type, index).
        """
        self._value = value
        self._device = device
        self.shape = tuple(value.shape())
        self.dtype: np.dtype[Any] = np.dtype(_NUMPY_TYPES[value.data_type()])

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **_: object) -> object:
        """Return a capsule; the result is complete, so `stream` is ignored."""
        at = self._value.data_ptr()
        return lend(at, self.shape, self.dtype, device=self._device, owner=self._value)

    def numpy(self) -> NDArray[Any]:
        """Return a copy in host memory."""
        return np.array(self._value.numpy())


_NUMPY_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


def run_bound(
    session: Any,
    feeds: Mapping[str, Any],
    output: str,
    device: tuple[str, int],
    out: Any,
    options: Any = None,
) -> Any:
    """Run a session on arrays without copies.

    Args:
        session: An `InferenceSession`.
        feeds: The inputs by name: NumPy arrays, or arrays on the device with `__dlpack__`.
        output: Name of the output.
        device: ("cpu" or "cuda", index).
        out: Array on the device to write to, None for a new one.
        options: `RunOptions`, None for plain ones.

    Returns:
        `out`, or an `OrtArray`.

    Raises:
        ShapeError: If an array is on another device, or not contiguous.
    """
    binding = session.io_binding()
    place = (_DEVICE_TYPES[device[0]], device[1])
    with ExitStack() as borrowed:
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_input(name, *device, *_borrowed(name, value, place, borrowed))
        if out is None:
            binding.bind_output(output, *device)
        else:
            binding.bind_output(output, *device, *_borrowed("out", out, place, borrowed))
        binding.synchronize_inputs()
        session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return OrtArray(binding.get_outputs()[0], place) if out is None else out


def run_features(
    session: Any,
    feeds: Mapping[str, NDArray[Any]],
    device: tuple[str, int],
    options: Any = None,
) -> Features:
    """Run a session and leave all its outputs on the device.

    Args:
        session: An `InferenceSession`.
        feeds: The inputs by name.
        device: ("cpu" or "cuda", index).
        options: `RunOptions`, None for plain ones.

    Returns:
        The outputs, each an `OrtValue`.
    """
    binding = session.io_binding()
    arrays = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
    for name, value in arrays.items():
        binding.bind_cpu_input(name, value)
    names = [item.name for item in session.get_outputs()]
    for name in names:
        binding.bind_output(name, *device)
    session.run_with_iobinding(binding, options)
    binding.synchronize_outputs()
    values = dict(zip(names, binding.get_outputs(), strict=True))
    sizes = (
        np.dtype(_NUMPY_TYPES[value.data_type()]).itemsize * math.prod(value.shape())
        for value in values.values()
    )
    return Features(values, sum(sizes))


def _borrowed(
    name: str, value: Any, place: tuple[int, int], borrowed: ExitStack
) -> tuple[Any, tuple[int, ...], int]:
    """Return type, shape and address of an array, valid until `borrowed` is closed."""
    if not hasattr(value, "__dlpack__"):
        raise ShapeError(f"{name} must be an array with __dlpack__, got {type(value).__name__}")
    actual = tuple(int(part) for part in value.__dlpack_device__())
    if actual != place:
        raise ShapeError(
            f"{name} must be on DLPack device {place[0]}:{place[1]}, got "
            f"{actual[0]}:{actual[1]}"
        )
    view = borrow(value.__dlpack__())
    borrowed.callback(view.release)
    if view.strides is not None:
        raise ShapeError(f"{name} must be contiguous, got strides {view.strides}")
    return view.dtype.type, view.shape, view.address


@dataclass
class _Bound:
    """Memory for one set of shapes, at fixed addresses."""

    binding: Any
    options: Any
    inputs: dict[str, Any]
    output: Any


class GraphRunner:
    """Runs a session with one CUDA graph per set of shapes, captured by ONNX Runtime.

    ONNX Runtime cannot free a graph: beyond the limit, other shapes run without one.
    """

    def __init__(
        self, library: Any, session: Any, output: str, device: tuple[str, int], limit: int
    ) -> None:
        """Wrap a session with CUDA graphs enabled.

        Args:
            library: The module `onnxruntime`.
            session: An `InferenceSession`.
            output: Name of the output.
            device: ("cpu" or "cuda", index).
            limit: Largest number of graphs.
        """
        self.counters = GraphCounters()
        self._library, self._session, self._output = library, session, output
        self._device, self._limit = device, limit
        self._results: dict[Any, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        self._bound: dict[Any, _Bound] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run on host arrays.

        Args:
            feeds: The inputs by name.

        Returns:
            The output, a new array.
        """
        key = tuple((name, array.shape) for name, array in sorted(feeds.items()))
        with self._lock:  # a graph has memory for one run at a time
            bound = self._bound.get(key)
            if bound is None and key in self._results and len(self._bound) < self._limit:
                bound = self._bind(key, feeds)
                self.counters.captures += 1
            elif bound is not None:
                self.counters.hits += 1
            if bound is not None:
                return self._replay(bound, feeds)
            self.counters.plain += 1
            result: NDArray[Any] = self._session.run(
                [self._output], dict(feeds), self.without_graph()
            )[0]
            if len(self._results) < 64 * max(self._limit, 1):
                self._results[key] = result.shape, result.dtype
            return result

    def without_graph(self) -> Any:
        """Return the options of a run that neither captures nor replays a graph."""
        return self._run_options(_NO_GRAPH)

    def _replay(self, bound: _Bound, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        for name, value in bound.inputs.items():
            value.update_inplace(np.ascontiguousarray(feeds[name]))
        bound.binding.synchronize_inputs()
        self._session.run_with_iobinding(bound.binding, bound.options)
        bound.binding.synchronize_outputs()
        return np.array(bound.output.numpy())

    def _bind(self, key: Any, feeds: Mapping[str, NDArray[Any]]) -> _Bound:
        make = self._library.OrtValue
        inputs = {
            name: make.ortvalue_from_numpy(np.ascontiguousarray(array), *self._device)
            for name, array in feeds.items()
        }
        shape, dtype = self._results[key]
        output = make.ortvalue_from_shape_and_type(shape, dtype.type, *self._device)
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self._output, output)
        options = self._run_options(str(len(self._bound) + 1))
        self._bound[key] = _Bound(binding, options, inputs, output)
        return self._bound[key]

    def _run_options(self, graph: str) -> Any:
        options = self._library.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, graph)
        return options
