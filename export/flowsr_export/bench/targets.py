"""What is timed: a bundle on a backend or its PyTorch model, at one size and scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from flowsr_export.inputs.cases import TEMPERATURE, Case, sample_pictures
from flowsr_export.inputs.feeds import graph_feeds, to_uint8
from flowsr_runtime import Bundle, Upscaler, embedded_bundle, open_session
from flowsr_runtime.backends.session import Session
from flowsr_runtime.errors import UsageError
from flowsr_runtime.pictures.pixels import full_range

if TYPE_CHECKING:
    import torch

    from flowsr_export.deployment.interface import Network

__all__ = [
    "TORCH_BACKENDS",
    "LoadedModel",
    "ModelTarget",
    "Measures",
    "load_engine",
]

Measures = Literal["gpu", "graph", "end-to-end"]
TORCH_BACKENDS = ("torch", "torch-compiled", "published")
EIGHT_BIT = 255
COMPILED_SIZES = 256


@dataclass(frozen=True)
class ModelTarget:
    """One model on one backend; what a child process needs to load it again.

    Attributes:
        bundle: Its folder, None for the built-in one.
        model: Checkpoint of its flow, for PyTorch; None for the built-in one.
        prior: Checkpoint of its latent module.
        backend: A backend of the runtime, or one of `TORCH_BACKENDS`.
        provider: What it computes with; "cpu" or "cuda" with PyTorch.
        device: Number of the GPU.
        threads: CPU threads.
        precision: Which of the bundle's graphs; PyTorch has "fp32" alone.
    """

    bundle: Path | None
    model: Path | None
    prior: Path | None
    backend: str
    provider: str
    device: int
    threads: int
    precision: str

    @property
    def label(self) -> str:
        """Name the loading as tables do."""
        return f"{self.backend} {self.provider} {self.precision}"

    @property
    def place(self) -> str:
        """Whose matrix products its speed is held against, "cpu" or "cuda"."""
        return "cuda" if self.provider in ("cuda", "tensorrt") else "cpu"


class LoadedModel(Protocol):
    """A loaded model."""

    @property
    def measures(self) -> tuple[Measures, ...]:
        """What can be timed of it.

        "gpu" is the graph with arrays that stay on the GPU, "graph" with arrays of the host
        in and out, "end-to-end" a picture.
        """

    def call(self, case: Case, measures: Measures) -> Callable[[], object]:
        """Return a call that makes one run; its inputs are made here, not in the call."""

    def close(self) -> None:
        """Free the model."""


def load_engine(loading: ModelTarget) -> LoadedModel:
    """Load a model.

    Raises:
        UsageError: If the checkpoint is not the bundle's, or PyTorch has no such precision.
        BackendError: If the backend's library is not installed.
        ProviderError: If the provider or the device is missing.
        BundleError: If the bundle holds no such model or engine, or it is damaged.
    """
    bundle = Bundle.open(embedded_bundle() if loading.bundle is None else loading.bundle)
    if loading.backend in TORCH_BACKENDS:
        return _TorchModel(bundle, loading)
    session = open_session(
        bundle,
        backend=loading.backend,
        provider=loading.provider,
        device=loading.device,
        threads=loading.threads if loading.backend == "onnxruntime" else None,
        precision=loading.precision,
    )
    return _SessionModel(bundle, session, loading)


@runtime_checkable
class _DeviceSession(Protocol):
    """A session that takes arrays of its GPU."""

    def run_device(self, feeds: Mapping[str, Any], out: Any = None) -> Any:
        """RunSize the model and leave the pictures where they are computed."""


class _SessionModel:
    """A bundle on a backend of the runtime."""

    measures: tuple[Measures, ...] = ("graph", "end-to-end")

    def __init__(self, bundle: Bundle, session: Session, loading: ModelTarget) -> None:
        self._bundle, self._session = bundle, session
        self._gpu = f"cuda:{loading.device}"
        if loading.place == "cuda" and _torch_has_gpu():
            self.measures = ("gpu", *self.measures)
        # No budget: a picture is one run, so that it can be held against the graph's.
        self._upscaler = Upscaler(bundle, session, memory_budget=2**62)

    def call(self, case: Case, measures: Measures) -> Callable[[], object]:
        if measures == "graph":
            feeds = graph_feeds(self._bundle.manifest, case)
            return lambda: self._session.run(feeds)
        if measures == "gpu":
            return self._resident(case)
        pictures = [
            np.ascontiguousarray(rgb.transpose(1, 2, 0))
            for rgb in to_uint8(sample_pictures(case))
        ]
        temperature = TEMPERATURE if self._bundle.manifest.latents else None

        def enlarge() -> None:
            for picture in pictures:
                self._upscaler.upscale(
                    picture, size=case.size, temperature=temperature, warn=lambda line: None
                )

        return enlarge

    def _resident(self, case: Case) -> Callable[[], object]:
        """Return a run whose pictures and latents lie on the GPU before and after it."""
        assert isinstance(self._session, _DeviceSession)
        session = self._session
        feeds = {
            # The values of `geometry` decide shapes, which are the host's to know.
            name: array if name == "geometry" else _on_gpu(array, self._gpu)
            for name, array in graph_feeds(self._bundle.manifest, case).items()
        }
        return lambda: session.run_device(feeds)

    def close(self) -> None:
        self._upscaler.close()


class _TorchModel:
    """The model that a bundle was made of, in eager PyTorch or in the published order."""

    def __init__(self, bundle: Bundle, loading: ModelTarget) -> None:
        import torch

        from flowsr_export.parity.reference import reference_of

        if loading.precision != "fp32":
            raise UsageError(f"{loading.backend} runs in fp32 alone, got {loading.precision}")
        torch.set_num_threads(loading.threads)
        place = "cpu" if loading.provider == "cpu" else f"cuda:{loading.device}"
        network = reference_of(bundle, loading.model, loading.prior).network.to(place)
        self._place, self._manifest = place, bundle.manifest
        self._run = _torch_call(network, loading.backend)
        # The tensors lie where the network does.
        self.measures: tuple[Measures, ...] = ("graph",) if place == "cpu" else ("gpu",)

    def call(self, case: Case, measures: Measures) -> Callable[[], object]:
        import torch

        feeds = graph_feeds(self._manifest, case)
        rgb = torch.from_numpy(full_range(feeds["input"])).to(self._place)
        latents = [
            torch.from_numpy(feeds[latent.name]).to(self._place)
            for latent in self._manifest.latents
        ]

        def enlarge() -> None:
            with torch.inference_mode():
                self._run(rgb, case.size, latents)
            if self._place != "cpu":
                torch.cuda.synchronize(self._place)

        return enlarge

    def close(self) -> None:
        del self._run


def _torch_has_gpu() -> bool:
    """Whether PyTorch can hold arrays on a GPU; the export's extra brings it."""
    import torch

    return torch.cuda.is_available()


def _on_gpu(array: NDArray[Any], place: str) -> Any:
    import torch

    return torch.from_numpy(array).to(place)


def _torch_call(
    network: Network, backend: str
) -> Callable[[torch.Tensor, tuple[int, int], list[torch.Tensor]], object]:
    """Return what runs a network on a picture, an output size and latents."""
    from flowsr_export.deployment.families import deployment_of

    if backend == "published":
        return _published_call(network)
    if backend == "torch-compiled":
        _compile(network)
    deployment = deployment_of(network)
    return lambda rgb, size, latents: deployment.reference(rgb, size, latents or None)


def _compile(network: Network) -> None:
    """Compile each size on its own; PyTorch 2.13 fails on LINF's patches of any size."""
    import torch._dynamo.config as settings

    # Beyond eight sizes PyTorch would run the others uncompiled, and not say so.
    settings.recompile_limit = settings.accumulated_recompile_limit = COMPILED_SIZES
    settings.fail_on_recompile_limit_hit = True
    network.compile(dynamic=False)


def _published_call(
    network: Network,
) -> Callable[[torch.Tensor, tuple[int, int], list[torch.Tensor]], object]:
    from flowsr_lp import LinfLP
    from flowsr_lp.linf.published_order import PublishedOrder
    from flowsr_lp.srflow.published_order import PublishedSrflow

    if network.prior is None:
        raise UsageError("backend published needs a bundle with a learned prior")
    if isinstance(network, LinfLP):
        linf = PublishedOrder(network)
        return lambda rgb, size, latents: linf(rgb, size)
    srflow = PublishedSrflow(network)
    return lambda rgb, size, latents: srflow(rgb)
