"""Run a bundle's engines with TensorRT or TensorRT for RTX: one code path for both."""

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
    Profile,
    Range,
)
from flowsr_runtime.bundle.profile_limits import ProfileLimits, bounds_of
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.cuda.device_array import is_device_array
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import BackendError, BundleError, UsageError

__all__ = ["TensorrtSession", "load_library"]

_OUTPUT: Final = "output"
_EXTRAS: Final = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


class TensorrtSession:
    """A `Session` on engines of the bundle; they are loaded when a run needs them."""

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
            device: Index of the GPU.
            precision: Precision of the ONNX file that the engine was built of.
            workers: Most runs at once; each takes activation memory of its own.
            graphs: Most CUDA graphs of each of them, 0 for none.

        Returns:
            The session.

        Raises:
            BackendError: If the library is not installed.
            ProviderError: If there is no driver or no such device, or an engine fails to load.
            BundleError: If the bundle has no such model, or no engine of it for the device.
            IntegrityError: If an engine is damaged.
        """
        module = load_library(backend)
        return cls(
            bundle,
            module,
            Device.open(device),
            precision=precision,
            workers=workers,
            graphs=graphs,
        )

    @property
    def limits(self) -> ProfileLimits:
        """The sizes that an engine of the device takes, whether it is loaded or not."""
        latents = self._bundle.manifest.latents
        profiles = [each for entry in self._entries for each in entry.key.profiles or ({},)]
        bounds = (bounds_of(profile, latents) for profile in profiles)
        return ProfileLimits(tuple(each for each in bounds if each is not None), self._build())

    @property
    def engines(self) -> list[str]:
        """Names of the engines that are loaded, paths inside the bundle."""
        with self._lock:
            return list(self._loaded)

    @property
    def graph_counters(self) -> GraphCounters:
        """How often CUDA graphs were used."""
        with self._lock:
            return sum((each.counters for each in self._loaded.values()), GraphCounters())

    @property
    def why_no_graphs(self) -> str | None:
        """Why CUDA graphs that were asked for are not captured, None if they are."""
        with self._lock:
            reasons = [each.why_no_graphs for each in self._loaded.values()]
        return next((reason for reason in reasons if reason is not None), None)

    def run(self, feeds: Mapping[str, Any]) -> NDArray[Any]:
        """Run the model; see `Session.run`.

        Args:
            feeds: The graph's inputs by name, arrays of the host or of the device; those that
                decide shapes lie on the host.

        Returns:
            Pictures, (B, 3, H, W).

        Raises:
            BundleError: If no engine has a profile for these shapes.
            ShapeError: If an input is missing or of another type.
            MemoryBudgetError: If the device's memory does not suffice.
            ProviderError: If the device fails.
        """
        engine, profile = self._choose(feeds)
        with engine.worker() as worker:
            return worker.run(profile, feeds, _OUTPUT)

    def run_device(self, feeds: Mapping[str, Any], out: Any = None) -> Any:
        """Run the model and leave the pictures on the device.

        Args:
            feeds: As `run`. An array of the device (`__dlpack__` or
                `__cuda_array_interface__`, such as a PyTorch tensor) is read where it lies.
            out: Array of the device to write to, None for a new one.

        Returns:
            `out`, or a `DeviceArray`; the pictures are there when you get it.

        Raises:
            BundleError: As `run`.
            ShapeError: As `run`; or if `out` is of another shape or type.
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
        wanted = (
            self._bundle.manifest.files[name].sha256,
            self.backend,
            version,
            device.compute_capability,
            self._precision,
            device.name,
        )
        found = self._store.matching(*wanted)
        if not found:
            reasons = _summary(self._store.explain_mismatch(*wanted))
            raise BundleError(
                f"{self._bundle.path} has no engine of {name} for {self.backend} {version} on "
                f"{device.name} ({device.compute_capability}): {reasons}; "
                "build an engine for this device",
                build=self._build(),
            )
        return found

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
                    self._store.read(entry),  # checked, before a byte of it is run
                    self._device,
                    workers=self._workers,
                    graphs=self._graphs,
                    cache=self._store.cache_path(entry, f"{self._device}"),
                )
            return self._loaded[entry.name]

    def _miss(self, sizes: Mapping[str, tuple[int, ...]]) -> BundleError:
        profiles = [(entry, each) for entry in self._entries for each in entry.key.profiles]
        entry, profile = min(profiles, key=lambda pair: len(_outside(pair[1], sizes)))
        wrong = "; ".join(
            f"{name} is {_text(sizes[name])}, it takes {_text(each.min)} to {_text(each.max)}"
            for name, each in _outside(profile, sizes).items()
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
    remedy = f"pip install 'flowsr-lp[{_EXTRAS[backend]}]'"
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
    """Return what a profile ranges over: a shape, or the values of a shape tensor."""
    if is_device_array(value):
        interface = getattr(value, "__cuda_array_interface__", None)
        shape = value.shape if interface is None else interface["shape"]
        return tuple(int(size) for size in shape)
    array = np.asarray(value)
    decides_shapes = array.ndim <= 1 and np.issubdtype(array.dtype, np.integer)
    return tuple(int(each) for each in (array.ravel() if decides_shapes else array.shape))


def _outside(profile: Profile, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Range]:
    """Return the ranges of a profile in which an input does not lie."""
    return {
        name: each
        for name, each in profile.items()
        if name in sizes and not each.covers(sizes[name])
    }


def _summary(differences: Sequence[Difference]) -> str:
    """Say what is different of the nearest engine, and how many others there are."""
    if not differences:
        return "it holds no engine at all"
    nearest = differences[0].name
    reasons = [each for each in differences if each.name == nearest]
    others = len({each.name for each in differences}) - 1
    more = f" (and {others} others)" if others else ""
    fields = ", ".join(
        f"{each.field} is {each.found[:40]}, wanted {each.wanted[:40]}" for each in reasons
    )
    return f"{nearest}: {fields}{more}"


def _text(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
