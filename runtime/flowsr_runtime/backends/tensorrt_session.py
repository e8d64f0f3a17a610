"""Run a bundle's engines with TensorRT or TensorRT for RTX."""

import importlib
import threading
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.tensorrt_engine import TensorrtEngine
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import (
    Difference,
    EngineEntry,
    EngineStore,
    LoadTarget,
    Profile,
    Range,
)
from flowsr_runtime.bundle.profile_limits import ProfileLimits, bounds_of
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.cuda.device_array import is_device_array
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import BackendError, BundleError, UsageError
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
        self._bundle, self._precision = bundle, precision
        self._store = EngineStore(bundle.path)
        self._entries = self._matching()
        self._loaded: dict[str, TensorrtEngine] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._load(self._entries[0])

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
        engines = f"{len(self._entries)} engine{'' if len(self._entries) == 1 else 's'}"
        state = ", closed" * self._closed
        return f"<TensorrtSession {self.backend} cuda:{self.device}, {engines}{state}>"

    @property
    def limits(self) -> ProfileLimits:
        """The sizes that the engines for the device take, loaded or not."""
        latents = self._bundle.manifest.latents
        profiles = [item for entry in self._entries for item in entry.key.profiles or ({},)]
        bounds = (bounds_of(profile, latents) for profile in profiles)
        return ProfileLimits(tuple(pair for pair in bounds if pair is not None), self._build())

    @property
    def engine_hashes(self) -> list[str]:
        """SHA-256 of the engines for the device, loaded or not."""
        return [entry.sha256 for entry in self._entries]

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
        engine, profile = self._choose(feeds)
        with engine.worker() as worker:
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
        engine, profile = self._choose(feeds)
        with engine.worker() as worker:
            return worker.run_device(profile, feeds, _OUTPUT, out)

    def close(self) -> None:
        """Free the engines; the session cannot run after that."""
        with self._lock:
            loaded, self._loaded, self._closed = self._loaded, {}, True
        for engine in loaded.values():
            engine.close()

    def _matching(self) -> list[EngineEntry]:
        name = self._bundle.model_name(self._precision)
        device, version = self._device, str(self._module.__version__)
        digest, capability = self._bundle.manifest.files[name].sha256, device.compute_capability
        target = LoadTarget(
            digest, self.backend, version, capability, self._precision, device.name
        )
        engines = self._store.matching(target)
        if not engines:
            reasons = _summary(self._store.explain_mismatch(target))
            raise BundleError(
                f"{self._bundle.path} has no engine of {name} for {self.backend} {version} on "
                f"{device.name} ({device.compute_capability}): {reasons}; "
                "build an engine for this device",
                build=self._build(),
            )
        return engines

    def _choose(self, feeds: Mapping[str, Any]) -> tuple[TensorrtEngine, int]:
        """Return the first engine with a profile for these inputs, and the profile's index."""
        sizes = {name: _sizes(value) for name, value in feeds.items()}
        for entry in self._entries:
            for index, profile in enumerate(entry.key.profiles or ({},)):
                if not _outside(profile, sizes):
                    return self._load(entry), index
        raise self._miss(sizes)

    def _load(self, entry: EngineEntry) -> TensorrtEngine:
        with self._lock:
            if self._closed:
                raise UsageError("the session is closed")
            if entry.name not in self._loaded:
                self._device.use()
                self._loaded[entry.name] = TensorrtEngine(
                    self._module,
                    entry,
                    self._store.read(entry),  # checked before it is loaded
                    self._device,
                    workers=self._workers,
                    graphs=self._graphs,
                    cache=self._store.cache_path(entry, f"{self._device}"),
                )
            return self._loaded[entry.name]

    def _miss(self, sizes: Mapping[str, tuple[int, ...]]) -> BundleError:
        profiles = [(entry, item) for entry in self._entries for item in entry.key.profiles]
        entry, profile = min(profiles, key=lambda pair: len(_outside(pair[1], sizes)))
        wrong = "; ".join(
            f"{name} is {_text(sizes[name])}, it takes {_text(item.min)} to {_text(item.max)}"
            for name, item in _outside(profile, sizes).items()
        )
        return BundleError(
            f"no engine takes these sizes; nearest is {entry.name}: {wrong}; build an engine "
            "whose profile takes them",
            build=self._build(profile, sizes),
        )

    def _build(
        self, profile: Profile | None = None, sizes: Mapping[str, tuple[int, ...]] | None = None
    ) -> dict[str, object]:
        """Return the facts about the missing engine; see `FlowsrError.build`."""
        facts: dict[str, object] = {
            "bundle": str(self._bundle.path),
            "flavour": self.backend,
            "precision": self._precision,
            "io": self._bundle.manifest.io,
        }
        if self.backend == "tensorrt_rtx":
            facts["compute_capability"] = self._device.compute_capability
        if profile is not None and sizes is not None and "input" in profile:
            shape, nearest = sizes["input"], profile["input"]
            facts["shapes"] = {
                "min": tuple(map(min, nearest.min, shape)),
                "opt": shape,
                "max": tuple(map(max, nearest.max, shape)),
            }
            if "geometry" in sizes:
                height, width, *target = sizes["geometry"][:4]
                facts["scale"] = Fraction(target[0], height), Fraction(target[1], width)
        return facts


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


def _sizes(value: Any) -> tuple[int, ...]:
    """Return the sizes that a profile bounds: a shape, or the values of a shape tensor."""
    if is_device_array(value):
        interface = getattr(value, "__cuda_array_interface__", None)
        shape = value.shape if interface is None else interface["shape"]
        return tuple(int(size) for size in shape)
    array = np.asarray(value)
    decides_shapes = array.ndim <= 1 and np.issubdtype(array.dtype, np.integer)
    return tuple(map(int, array.ravel() if decides_shapes else array.shape))


def _outside(profile: Profile, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Range]:
    """Return the ranges of a profile that do not cover their input."""
    return {
        name: item
        for name, item in profile.items()
        if name in sizes and not item.covers(sizes[name])
    }


def _summary(differences: Sequence[Difference]) -> str:
    """Return the differences of the nearest engine, and the number of others."""
    if not differences:
        return "it holds no engine at all"
    nearest = differences[0].name
    reasons = [item for item in differences if item.name == nearest]
    others = len({item.name for item in differences}) - 1
    more = f" (and {others} others)" if others else ""
    fields = ", ".join(
        f"{item.field} is {item.found[:40]}, wanted {item.wanted[:40]}" for item in reasons
    )
    return f"{nearest}: {fields}{more}"


def _text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
