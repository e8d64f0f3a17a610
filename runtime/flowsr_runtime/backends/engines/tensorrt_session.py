"""Run a bundle's engines with TensorRT or TensorRT for RTX."""

import importlib
from collections.abc import Mapping
from typing import Any, Final

from numpy.typing import NDArray

from flowsr_runtime.backends.engines.engine_session import EngineSession
from flowsr_runtime.backends.engines.selection import EngineSelection
from flowsr_runtime.backends.engines.tensorrt_engine import TensorrtEngine
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import EngineEntry, LoadTarget
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import BackendError
from flowsr_runtime.installation import pip_command

__all__ = ["TensorrtSession", "load_library"]

_OUTPUT: Final = "output"
_EXTRAS: Final = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


class TensorrtSession(EngineSession[TensorrtEngine]):
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
        super().__init__(EngineSelection(bundle, target, facts))

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
        return self._label(f"{self.backend} cuda:{self.device}")

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

    def _open(self, entry: EngineEntry, content: bytes) -> TensorrtEngine:
        self._device.use()
        return TensorrtEngine(
            self._module,
            entry,
            content,
            self._device,
            workers=self._workers,
            graphs=self._graphs,
            cache=self._selection.store.cache_path(entry, f"{self._device}"),
        )


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
