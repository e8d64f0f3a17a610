"""Run a bundle's ONNX file with OpenVINO on the CPU."""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import openvino as ov
import openvino.opset13 as ops
from numpy.typing import NDArray

from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.backends.library_errors import is_out_of_memory, one_line
from flowsr_runtime.backends.size_fixed import SizeFixedSessions, matching_graph
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.errors import (
    BundleError,
    MemoryBudgetError,
    ProviderError,
    ScaleError,
    UsageError,
)

__all__ = ["OpenvinoSession"]

Shapes = tuple[tuple[str, tuple[int, ...]], ...]

_OUTPUT: Final = "output"
_PLACE: Final = "CPU"

_SIZES: Final = 8
"""Compiled models that are kept, one for each set of shapes: the tiles of a picture with their
borders have at most nine; the one that was not used for longest goes."""

_TYPES: Final = {"float32": "f32", "uint8": "u8"}
"""OpenVINO's names of the types of `picture.io` in the manifest."""

_PI: Final = (3.140625, 0.0009670257568359375, 6.2771141529083e-07)
"""Pi in three parts; the product of a whole number below 4096 with the first two is exact."""

_SERIES: Final = {
    "Sin": tuple((-1) ** i / math.factorial(2 * i + 1) for i in range(7)),
    "Cos": tuple((-1) ** i / math.factorial(2 * i) for i in range(8)),
}

_LARGEST_INTEGER: Final = 2**31 - 1


class OpenvinoSession:
    """A `Session` on OpenVINO's CPU plug-in, in float32 or, if asked, in bfloat16."""

    backend = "openvino"
    provider = "cpu"
    device = 0
    limits: ProfileLimits | None = None

    def __init__(
        self, model: bytes, *, threads: int | None, name: str, bfloat16: bool = False
    ) -> None:
        """Load a model.

        Args:
            model: Content of a self-contained ONNX file whose hash was checked.
            threads: CPU threads, None for the number of usable cores.
            name: Name of the model in messages.
            bfloat16: Compute the heavy layers of a float32 graph in bfloat16.

        Raises:
            ProviderError: If the CPU has no bfloat16.
            BundleError: If OpenVINO cannot load the model.
        """
        self.library = "openvino " + "-".join(ov.__version__.split("-")[:2])
        self._core = ov.Core()
        if bfloat16 and "BF16" not in self._core.get_property(
            _PLACE, "OPTIMIZATION_CAPABILITIES"
        ):
            raise ProviderError(
                "precision bf16 needs a CPU with AVX512_BF16 or AMX with backend openvino; "
                "this one has neither"
            )
        # Its own choice would be bfloat16 where a CPU has it: 1.8 eight-bit steps off.
        self._config = {
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": usable_cores() if threads is None else threads,
            "NUM_STREAMS": 1,
        }
        try:
            self._model = self._core.read_model(model, b"")
        except RuntimeError as error:
            raise BundleError(f"openvino cannot load {name}: {one_line(error)}") from error
        if not bfloat16:
            _replace_waves(self._model)
        self.types = {
            item.get_any_name(): item.get_element_type().get_type_name()
            for item in self._model.inputs
        }
        self._compiled: OrderedDict[Shapes, _Compiled] = OrderedDict()
        self._size_fixed: SizeFixedSessions[OpenvinoSession] | None = None
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, bundle: Bundle, *, threads: int | None = None, precision: str = "fp32"
    ) -> "OpenvinoSession":
        """Load a bundle's model.

        A run of a whole image for whose size the bundle has a size-fixed graph is computed by
        that; see `graph_for`.

        Args:
            bundle: Bundle with the model.
            threads: CPU threads, None for the number of usable cores.
            precision: Precision of the graph; "bf16" runs the fp32 graph in bfloat16.

        Returns:
            The session.

        Raises:
            ProviderError: If the CPU has no bfloat16.
            BundleError: If the bundle holds no such model, or the model is damaged or differs
                from the manifest in its inputs.
        """
        bfloat16 = precision == "bf16"
        stored = "fp32" if bfloat16 else precision

        def load(name: str) -> OpenvinoSession:
            path = str(bundle.path / name)
            return cls(bundle.read(name), threads=threads, name=path, bfloat16=bfloat16)

        name = bundle.model_name(stored)
        session = load(name)
        session._check_inputs(bundle, str(bundle.path / name))
        fixed = bundle.size_fixed(stored)
        if fixed:
            session._size_fixed = SizeFixedSessions(fixed, load)
        return session

    def __repr__(self) -> str:
        return f"<OpenvinoSession {self.provider}{', closed' * self._closed}>"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model; see `Session.run`.

        Args:
            feeds: The graph's inputs by name.

        Returns:
            Images, (B, 3, H, W).

        Raises:
            ScaleError: If the geometry exceeds the 32 bits that OpenVINO computes it in.
            MemoryBudgetError: If memory runs out.
            ProviderError: If OpenVINO fails during the run.
        """
        if self._size_fixed is not None:
            fixed = self._size_fixed.session_for(feeds)
            if fixed is not None:
                return fixed[0].run(fixed[1])
        if "geometry" in feeds:
            _check_geometry(feeds["geometry"])
        with _translated():
            compiled = self._compiled_for(feeds)
            request = compiled.borrow()
            request.infer({name: np.ascontiguousarray(feeds[name]) for name in feeds})
            result = np.array(request.get_output_tensor(0).data)  # its memory is used again
            compiled.give_back(request)
        return result

    def graph_for(self, feeds: Mapping[str, Any]) -> str | None:
        """Return the file of the size-fixed graph that computes a run, None for any size."""
        graphs = () if self._size_fixed is None else self._size_fixed.graphs
        graph = matching_graph(graphs, feeds)
        return None if graph is None else graph.file

    def close(self) -> None:
        """Free the model; the session cannot run after that."""
        if self._size_fixed is not None:
            self._size_fixed.close()
        with self._lock:
            self._closed = True
            self._compiled.clear()
            self._model = None

    def _compiled_for(self, feeds: Mapping[str, NDArray[Any]]) -> "_Compiled":
        """Return the model for the shapes of some inputs, compiled at their first use."""
        shapes = tuple((name, feeds[name].shape) for name in sorted(feeds))
        with self._lock:
            if self._closed:
                raise UsageError("the session is closed")
            found = self._compiled.get(shapes)
            if found is None:
                fixed = self._model.clone()
                fixed.reshape(dict(shapes))
                found = _Compiled(self._core.compile_model(fixed, _PLACE, self._config))
                self._compiled[shapes] = found
                if len(self._compiled) > _SIZES:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(shapes)
            return found

    def _check_inputs(self, bundle: Bundle, path: str) -> None:
        expected, taken = bundle.manifest.inputs, set(self.types)
        if taken != expected:
            raise BundleError(
                f"{path} takes {sorted(taken)}, bundle.json says {sorted(expected)}"
            )
        due = _TYPES[bundle.manifest.io]
        if self.types["input"] != due:
            found = self.types["input"]
            raise BundleError(f"{path} takes images of {found}, bundle.json says {due}")


class _Compiled:
    """A model compiled for one set of shapes, and its idle requests, one for each thread."""

    def __init__(self, model: Any) -> None:
        self._model, self._idle = model, list[Any]()

    def borrow(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._model.create_infer_request()

    def give_back(self, request: Any) -> None:
        self._idle.append(request)


def _replace_waves(model: Any) -> None:
    """Replace every sine and cosine by elementwise operations that OpenVINO fuses.

    Its own kernels for them compute one value at a time: they take a quarter of a run of the
    built-in model.
    """
    for node in model.get_ordered_ops():
        series = _SERIES.get(node.get_type_name())
        if series is not None and node.get_output_element_type(0) == ov.Type.f32:
            node.output(0).replace(_wave(node.input_value(0), series).output(0))


def _wave(angle: Any, series: tuple[float, ...]) -> Any:
    """Return the sine or cosine of angles up to some thousands, at most 3e-7 off.

    With k the nearest whole number to angle / pi, it is (-1)^k times that of angle - k pi
    (Cody and Waite, 1980), by the Taylor series on [-pi/2, pi/2].

    Args:
        angle: Node of radians.
        series: Coefficients of the powers of the squared angle, the constant first.
    """
    turns = ops.round(ops.multiply(angle, _constant(1 / math.pi)), "half_to_even")
    rest = angle
    for part in _PI:
        rest = ops.subtract(rest, ops.multiply(turns, _constant(part)))
    halves = ops.floor(ops.multiply(turns, _constant(0.5)))
    odd = ops.subtract(turns, ops.multiply(halves, _constant(2.0)))
    sign = ops.subtract(_constant(1.0), ops.multiply(odd, _constant(2.0)))
    square = ops.multiply(rest, rest)
    value = _constant(series[-1])
    for coefficient in series[-2::-1]:
        value = ops.add(ops.multiply(value, square), _constant(coefficient))
    if series is _SERIES["Sin"]:
        value = ops.multiply(value, rest)
    return ops.multiply(value, sign)


def _constant(value: float) -> Any:
    return ops.constant(np.array(value, dtype=np.float32))


@contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of the library to `FlowsrError`."""
    try:
        yield
    except UsageError:
        raise
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise MemoryBudgetError(
                "openvino ran out of memory; give a smaller memory_budget",
                option="memory_budget",
            ) from error
        raise ProviderError(f"openvino failed: {one_line(error)}") from error


def _check_geometry(geometry: NDArray[np.int64]) -> None:
    """Refuse an image whose geometry overflows the 32 bits of OpenVINO's CPU plug-in."""
    for axis in (0, 1):
        source, target = int(geometry[axis]), int(geometry[2 + axis])
        # The graph's largest products: (2 Y + 1) h of a row Y up to one patch below the last,
        # and 2 H more that make it positive. A patch is far smaller than the factor's slack.
        if 2 * (target + 64) * (source + 1) + 4 * target > _LARGEST_INTEGER:
            raise ScaleError(
                "openvino computes geometry in 32 bits and takes no picture of "
                f"{source} upscaled to {target} pixels; use onnxruntime"
            )
