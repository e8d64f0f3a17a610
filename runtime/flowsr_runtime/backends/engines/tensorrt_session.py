"""Run a bundle's engines with TensorRT or TensorRT for RTX."""

import importlib
import threading
from collections.abc import Mapping
from typing import Any, Final

from numpy.typing import NDArray

from flowsr_runtime.backends.engines.selection import EngineSelection
from flowsr_runtime.backends.engines.tensorrt_engine import TensorrtEngine
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import EngineEntry, LoadTarget
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import BackendError, UsageError
from flowsr_runtime.installation import pip_command

__all__ = ["TensorrtSession", "load_library"]

_OUTPUT: Final = "output"
_EXTRAS: Final = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


class TensorrtSession:
    """A `Session` on engines of a bundle, which are loaded when a run needs them."""

    provider = "cuda"

    def __init__(
        self,
        bundle: Bundle,
        module: Any,
        device: Device,
        *,
        precision: str,
        workers: int,
        graphs: int,
    ) -> None:
        """Find the engines that the device can load, and load the first; see `open`."""
        self.backend = str(module.__name__)
        self.library = f"{module.__name__} {module.__version__}"
        self.device = device.index
        self._module, self._device = module, device
        self._workers, self._graphs = workers, graphs
        target = LoadTarget(
            bundle.manifest.files[bundle.model_name(precision)].sha256,
            self.backend,
            str(module.__version__),
            device.compute_capability,
            precision,
            device.name,
        )
        facts = {}
        if self.backend == "tensorrt_rtx":
            facts["compute_capability"] = device.compute_capability
        self._selection = EngineSelection(bundle, target, facts)
        self._loaded: dict[str, TensorrtEngine] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._load(self._selection.entries[0])

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        backend: str,
        device: int = 0,
        precision: str = "fp32",
        workers: int = 4,
        graphs: int = 0,
    ) -> "TensorrtSession":
        """Open a bundle's engines.

        Args:
            bundle: Bundle with an engine of the model for the device.
            backend: "tensorrt" or "tensorrt_rtx".
            device: GPU index.
            precision: Precision of the ONNX file of the engine.
            workers: Largest number of concurrent runs, each with its own activation memory.
            graphs: Largest number of CUDA graphs per worker, 0 for none.

        Returns:
            The session.

        Raises:
            BackendError: If the library is not installed.
            ProviderError: If there is no driver or no such device, or an engine fails to load.
            BundleError: If the bundle has no such model, or no engine of it for the device.
            IntegrityError: If an engine is damaged.
        """
        module, gpu = load_library(backend), Device.open(device)
        return cls(bundle, module, gpu, precision=precision, workers=workers, graphs=graphs)

    def __repr__(self) -> str:
        count = len(self._selection.entries)
        engines = f"{count} engine{'' if count == 1 else 's'}"
        state = ", closed" * self._closed
        return f"<TensorrtSession {self.backend} cuda:{self.device}, {engines}{state}>"

    @property
    def limits(self) -> ProfileLimits:
        """The sizes that the engines for the device take, loaded or not."""
        return self._selection.limits

    @property
    def engine_hashes(self) -> list[str]:
        """SHA-256 of the engines for the device, loaded or not."""
        return self._selection.hashes

    @property
    def engines(self) -> list[str]:
        """Loaded engines, as paths inside the bundle."""
        with self._lock:
            return list(self._loaded)

    @property
    def graph_counters(self) -> GraphCounters:
        """Counters of CUDA graphs."""
        with self._lock:
            return sum((engine.counters for engine in self._loaded.values()), GraphCounters())

    def run(self, feeds: Mapping[str, Any]) -> NDArray[Any]:
        """Run the model; see `Session.run`.

        Args:
            feeds: The graph's inputs by name, arrays on the host or the device; inputs that
                decide shapes must be on the host.

        Returns:
            Images, (B, 3, H, W).

        Raises:
            BundleError: If no engine has a profile for these shapes.
            ShapeError: If an input is missing or of another type.
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If the device fails.
        """
        entry, profile = self._selection.choose(feeds)
        with self._load(entry).worker() as worker:
            return worker.run(profile, feeds, _OUTPUT)

    def run_device(self, feeds: Mapping[str, Any], out: Any = None) -> Any:
        """Run the model and leave the images on the device.

        Args:
            feeds: As for `run`. An array on the device (`__dlpack__` or
                `__cuda_array_interface__`, such as a PyTorch tensor) is read without a copy.
            out: Array on the device to write to, None for a new one.

        Returns:
            `out`, or a `DeviceArray`, with the complete result.

        Raises:
            BundleError: As `run`.
            ShapeError: As `run`; or if `out` has another shape or type.
            MemoryBudgetError: As `run`.
            ProviderError: As `run`.
        """
        entry, profile = self._selection.choose(feeds)
        with self._load(entry).worker() as worker:
            return worker.run_device(profile, feeds, _OUTPUT, out)

    def close(self) -> None:
        """Free the engines; the session cannot run after that."""
        with self._lock:
            loaded, self._loaded, self._closed = self._loaded, {}, True
        for engine in loaded.values():
            engine.close()

    def _load(self, entry: EngineEntry) -> TensorrtEngine:
        with self._lock:
            if self._closed:
                raise UsageError("the session is closed")
            if entry.name not in self._loaded:
                self._device.use()
                self._loaded[entry.name] = TensorrtEngine(
                    self._module,
                    entry,
                    self._selection.store.read(entry),  # checked before it is loaded
                    self._device,
                    workers=self._workers,
                    graphs=self._graphs,
                    cache=self._selection.store.cache_path(entry, f"{self._device}"),
                )
            return self._loaded[entry.name]


def load_library(backend: str) -> Any:
    """Import TensorRT or TensorRT for RTX.

    Args:
        backend: "tensorrt" or "tensorrt_rtx".

    Returns:
        The module.

    Raises:
        BackendError: If it is not installed, cannot be loaded, or is the empty package of
            tensorrt-stubs.
    """
    remedy = pip_command(_EXTRAS[backend])
    try:
        module = importlib.import_module(backend)
    except ModuleNotFoundError as error:
        if error.name != backend:
            raise BackendError(f"{backend} cannot be loaded: {error}") from error
        raise BackendError(f"{backend} is not installed; {remedy}") from error
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(f"{backend} cannot be loaded: {error}") from error
    if not hasattr(module, "Builder"):
        raise BackendError(f"{backend} is an empty package (tensorrt-stubs); {remedy}")
    return module
