"""Run a bundle's engines with PyTorch's Inductor, on a GPU or a CPU."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from flowsr_runtime.backends.engines.engine_session import EngineSession
from flowsr_runtime.backends.engines.inductor_engine import (
    InductorEngine,
    compute_capability,
    set_threads,
    version,
)
from flowsr_runtime.backends.engines.selection import EngineSelection
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import EngineEntry, LoadTarget

__all__ = ["InductorSession"]


class InductorSession(EngineSession[InductorEngine]):
    """A `Session` on packages of a bundle, which are loaded when a run needs them."""

    backend = "inductor"

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        *,
        precision: str,
        threads: int | None,
        workers: int,
        graphs: int,
    ) -> None:
        """Find the engines that the device can load, and load the first; see `open`."""
        self.provider, _, index = device.partition(":")
        self.device = int(index or 0)
        self.library = f"pytorch {version()}"
        self._place, self._manifest = device, bundle.manifest
        self._workers, self._graphs = workers, graphs
        target = LoadTarget(
            bundle.manifest.files[bundle.model_name(precision)].sha256,
            self.backend,
            version(),
            compute_capability(device),
            precision,
        )
        selection = EngineSelection(bundle, target, {"device": self.provider})
        self._threads = threads
        super().__init__(selection)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int | None = None,
        workers: int = 4,
        graphs: int = 0,
    ) -> "InductorSession":
        """Open a bundle's packages.

        Args:
            bundle: Bundle with an engine of the model for the device.
            device: "cpu" or "cuda:N".
            precision: Precision of the engine.
            threads: CPU threads of PyTorch, None for all usable cores; set at each run, which
                leaves them to the calling thread.
            workers: Largest number of concurrent runs.
            graphs: Largest number of CUDA graphs per engine, 0 for none.

        Returns:
            The session.

        Raises:
            ProviderError: If PyTorch has no such device.
            BundleError: If the bundle has no such model, or no engine of it for the device.
            IntegrityError: If an engine is damaged.
        """
        return cls(
            *(bundle, device),
            precision=precision,
            threads=threads,
            workers=workers,
            graphs=graphs,
        )

    def __repr__(self) -> str:
        return self._label(self._place)

    def run(self, feeds: Mapping[str, Any]) -> NDArray[Any]:
        """Run the model; see `Session.run`.

        Args:
            feeds: The graph's inputs by name, arrays on the host or the device and of any
                strides; `geometry` must be on the host.

        Returns:
            Images, (B, 3, H, W).

        Raises:
            BundleError: If no engine has a profile for these shapes.
            FlowsrError: As `InductorEngine.run`.
        """
        entry, profile = self._selection.choose(feeds)
        self._set_threads()
        return self._load(entry).run(profile, feeds)

    def run_device(self, feeds: Mapping[str, Any], out: Any = None) -> Any:
        """Run the model and leave the images on the device.

        Args:
            feeds: As for `run`. A contiguous array on the device (`__dlpack__` or
                `__cuda_array_interface__`) is read without a copy.
            out: Array on the device to write to, None for a new tensor.

        Returns:
            `out`, or a `torch.Tensor`, with the complete result.

        Raises:
            BundleError: As `run`.
            FlowsrError: As `InductorEngine.run_device`.
        """
        entry, profile = self._selection.choose(feeds)
        self._set_threads()
        return self._load(entry).run_device(profile, feeds, out=out)

    def _set_threads(self) -> None:
        """Set this session's threads: another one, or the caller, may have set its own."""
        if self.provider == "cpu":
            set_threads(self._threads)

    def _open(self, entry: EngineEntry, content: bytes) -> InductorEngine:
        return InductorEngine(
            entry,
            content,
            self._place,
            patch=self._manifest.tiling.halo.patch,
            scale=self._manifest.scale,
            workers=self._workers,
            graphs=self._graphs,
        )
