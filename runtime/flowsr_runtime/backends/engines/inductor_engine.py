"""Run one package of PyTorch's Inductor; the only file of the runtime that imports PyTorch."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch._inductor.package.package import load_package
from torch.utils.dlpack import from_dlpack

from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.backends.engines.host import host_isa
from flowsr_runtime.backends.engines.inductor_graphs import capture_graph
from flowsr_runtime.backends.library_errors import is_out_of_memory, one_line
from flowsr_runtime.bundle.engine_entry import EngineEntry
from flowsr_runtime.bundle.engine_key import GRID
from flowsr_runtime.cuda.dlpack import is_device_array
from flowsr_runtime.cuda.graph_cache import Captured, GraphCache, GraphCounters
from flowsr_runtime.errors import BundleError, MemoryBudgetError, ProviderError, ShapeError
from flowsr_runtime.geometry import Window, output_size

__all__ = [
    "InductorEngine",
    "compute_capability",
    "model_names",
    "set_threads",
    "version",
]

_OUTPUT: Final = "output"
_WINDOW: Final = 8
"""Index of the window's height in `geometry`; its width follows."""


def version() -> str:
    """Return the version of the installed PyTorch, with its build."""
    return str(torch.__version__)


def compute_capability(device: str) -> str:
    """Return the compute capability of a GPU, or the instruction set of this CPU.

    Args:
        device: "cpu" or "cuda:N".

    Raises:
        ProviderError: If PyTorch is built without CUDA, or there is no such GPU.
    """
    if device == "cpu":
        return host_isa()
    index = torch.device(device).index
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        reason = "shows no such GPU" if torch.version.cuda else "is built without CUDA"
        raise ProviderError(f"{device} is not usable: PyTorch {version()} {reason}")
    major, minor = torch.cuda.get_device_capability(index)
    return f"{major}.{minor}"


def set_threads(threads: int | None) -> None:
    """Set PyTorch's CPU threads of the calling thread, None for the number of usable cores."""
    torch.set_num_threads(usable_cores() if threads is None else threads)


class InductorEngine:
    """One loaded package, which holds a compiled model for each profile of its key."""

    def __init__(
        self,
        entry: EngineEntry,
        package: bytes,
        device: str,
        *,
        patch: int,
        scale: Fraction | None = None,
        workers: int = 1,
        graphs: int = 0,
    ) -> None:
        """Load a package.

        Args:
            entry: Description of the engine; its facts name the inputs in order.
            package: Content of the file, whose hash was checked.
            device: "cpu" or "cuda:N".
            patch: Side of the model's patches in output pixels.
            scale: The only scale of the model, for which a package of a range of sizes
                gets the geometry of a whole image; None for any.
            workers: Largest number of concurrent runs; one with CUDA graphs.
            graphs: Largest number of CUDA graphs, 0 for none.

        Raises:
            BundleError: If PyTorch cannot load the package.
        """
        tensors = entry.facts["tensors"]
        self._inputs = [(item["name"], item["dtype"]) for item in tensors if item["input"]]
        self._device, self._patch, self._scale = torch.device(device), patch, scale
        self._graphs = GraphCache(graphs if self._device.type == "cuda" else 0)
        self._one_at_a_time = threading.Lock()
        index = -1 if self._device.index is None else self._device.index
        # PyTorch reads files only; a folder of our own holds the bytes that were checked.
        with TemporaryDirectory(prefix="flowsr-engine-") as folder:
            path = Path(folder) / "engine.pt2"
            path.write_bytes(package)
            try:
                self._models = [
                    load_package(
                        str(path),
                        name,
                        run_single_threaded=self._graphs.limit > 0,
                        num_runners=1 if self._graphs.limit > 0 else workers,
                        device_index=index,
                    )
                    for name in model_names(len(entry.key.profiles))
                ]
            except (RuntimeError, OSError) as error:
                message = f"{entry.name} cannot be loaded: {one_line(error)}"
                raise BundleError(message) from error

    @property
    def counters(self) -> GraphCounters:
        """Counters of CUDA graphs."""
        return self._graphs.counters

    @contextmanager
    def worker(self) -> Iterator["InductorEngine"]:
        """Yield what runs the engine, as an engine of TensorRT does: here itself."""
        yield self

    def run(
        self, profile: int, feeds: Mapping[str, Any], output: str = _OUTPUT
    ) -> NDArray[Any]:
        """Run the engine; the result is copied to the host.

        Args:
            profile: Index of the profile, which covers the feeds.
            feeds: Inputs by name, on the host or the device, of any strides.
            output: Name of the output, always "output".

        Returns:
            Images, (B, 3, H, W).

        Raises:
            ShapeError: If an input is missing or of another type.
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If the device fails.
        """
        result: NDArray[Any] = self._result(profile, feeds).cpu().numpy()
        return result

    def run_device(
        self, profile: int, feeds: Mapping[str, Any], output: str = _OUTPUT, out: Any = None
    ) -> Any:
        """Run the engine and leave the images on the device.

        The work is queued on PyTorch's current stream, and has ended at the return.

        Args:
            profile: As for `run`.
            feeds: As for `run`; contiguous arrays on the device are read without a copy.
            output: As for `run`.
            out: Array on the device to write to, None for a new tensor.

        Returns:
            `out`, or a `torch.Tensor`, which exchanges memory by DLPack.

        Raises:
            ShapeError: As `run`; or if `out` has another shape or type.
            MemoryBudgetError: As `run`.
            ProviderError: As `run`.
        """
        result = self._result(profile, feeds)
        if out is not None:
            target = _viewed(out, self._device)
            if (target.shape, target.dtype) != (result.shape, result.dtype):
                raise ShapeError(
                    f"out must be {result.dtype} of shape {tuple(result.shape)}, "
                    f"got {target.dtype} of shape {tuple(target.shape)}"
                )
            target.copy_(result)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return result if out is None else out

    def close(self) -> None:
        """Free the package; the engine cannot run after that."""
        with self._one_at_a_time:
            self._graphs.clear()
            self._models.clear()

    def _result(self, profile: int, feeds: Mapping[str, Any]) -> torch.Tensor:
        inputs = [self._input(name, dtype, feeds) for name, dtype in self._inputs]
        try:
            with torch.inference_mode(), self._on_device():
                result = self._computed(profile, inputs)
        except torch.OutOfMemoryError as error:
            raise MemoryBudgetError(f"the device is out of memory: {error}") from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryBudgetError(f"out of memory: {one_line(error)}") from error
            raise ProviderError(f"inductor failed: {one_line(error)}") from error
        if any(name == GRID[0] for name, _ in self._inputs):  # whole patches: cut the window
            height, width = self._window(feeds)
            result = result[:, :, :height, :width]
        return result.contiguous()

    def _computed(self, profile: int, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        model = self._models[profile]
        if self._graphs.limit == 0:
            self._graphs.counters.plain += 1
            return model(*inputs)  # type: ignore[no-any-return]  # of the loader
        key = (profile, *(tuple(item.shape) for item in inputs))
        with self._one_at_a_time:
            captured = self._graphs.get(key)
            if captured is None and self._graphs.is_due(key):
                graph = capture_graph(torch.cuda, lambda given: model(*given), inputs)
                captured = Captured(graph, model, {_OUTPUT: tuple(graph.output.shape)})
                self._graphs.put(key, captured)
            if captured is None:
                self._graphs.counters.plain += 1
                return model(*inputs)  # type: ignore[no-any-return]  # of the loader
            replayed: torch.Tensor = captured.graph.replay(inputs)
            return replayed

    def _on_device(self) -> AbstractContextManager[Any]:
        """Make the GPU the current one of this thread."""
        return nullcontext() if self._device.type == "cpu" else torch.cuda.device(self._device)

    def _input(self, name: str, dtype: str, feeds: Mapping[str, Any]) -> torch.Tensor:
        """Return an input on the device, contiguous: a package trusts the strides it knows."""
        if name in GRID:
            length = -(-self._window(feeds)[GRID.index(name)] // self._patch)
            return torch.empty(length, dtype=torch.uint8, device=self._device)
        value = self._geometry(feeds) if name == "geometry" else feeds.get(name)
        if value is None:
            raise ShapeError(f"input {name} is missing")
        if not is_device_array(value) and not isinstance(value, torch.Tensor):
            value = np.require(value, requirements=["C", "W"])  # else PyTorch warns
        tensor = _viewed(value, self._device)
        if str(tensor.dtype) != f"torch.{dtype}":
            raise ShapeError(f"input {name} must be {dtype}, got {tensor.dtype}")
        return tensor.to(self._device).contiguous()

    def _geometry(self, feeds: Mapping[str, Any]) -> Any:
        """Return the input `geometry`, of a graph without it that of the whole image."""
        if "geometry" in feeds:
            return feeds["geometry"]
        if self._scale is None or "input" not in feeds:
            raise ShapeError("input geometry is missing")
        height, width = (int(side) for side in feeds["input"].shape[2:])
        size = output_size(height, self._scale), output_size(width, self._scale)
        return Window.whole((height, width), size).geometry()

    def _window(self, feeds: Mapping[str, Any]) -> tuple[int, int]:
        """Return the window's size (H, W), which is on the host as all that decides shapes."""
        geometry = self._geometry(feeds)
        return int(geometry[_WINDOW]), int(geometry[_WINDOW + 1])


def model_names(count: int) -> list[str]:
    """Return the names of the models in a package, one for each profile."""
    return [f"profile{index}" for index in range(count)]


def _viewed(value: Any, device: torch.device) -> torch.Tensor:
    """Return an array of any library as a tensor on the same memory."""
    if isinstance(value, torch.Tensor):
        return value
    if hasattr(value, "__dlpack__"):
        return from_dlpack(value)
    return torch.as_tensor(value, device=device)
