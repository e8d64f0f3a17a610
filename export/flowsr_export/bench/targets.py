"""Models to measure: a bundle on a backend of the runtime, or its PyTorch network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flowsr_export.inputs.cases import TEMPERATURE, Case, sample_pictures
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_export.parity.candidates import GPU_PROVIDERS
from flowsr_runtime import Bundle, SessionSettings, Upscaler, embedded_bundle
from flowsr_runtime.backends.contract import Session
from flowsr_runtime.backends.session import AUTO
from flowsr_runtime.errors import UsageError
from flowsr_runtime.pictures.depth import to_depth

__all__ = [
    "AUTOCAST",
    "TORCH_BACKENDS",
    "LoadedModel",
    "Measures",
    "ModelTarget",
    "load_model",
    "check_target",
    "torch_precision",
]

Measures = Literal["gpu", "graph", "end-to-end"]
TORCH_BACKENDS = ("torch", "torch-compiled", "published", "published-compiled")
AUTOCAST = "autocast-fp16"
HALVES = ("fp16", "bf16")


@dataclass(frozen=True)
class ModelTarget:
    """One model on one backend; a child process can load it again from this.

    Attributes:
        bundle: Folder of the bundle, None for the built-in one.
        model: Checkpoint of the flow, for PyTorch; None for the built-in one.
        prior: Checkpoint of the latent module.
        settings: Backend, provider, device, threads and precision. The backend may be one of
            `TORCH_BACKENDS`, whose provider is "cpu" or "cuda" and whose precision is one that
            `torch_precision` returns.
    """

    bundle: Path | None
    model: Path | None
    prior: Path | None
    settings: SessionSettings

    @property
    def place(self) -> str:
        """Device type whose matrix products its speed is compared with, "cpu" or "cuda"."""
        on_gpu = self.settings.backend in ("tensorrt", "tensorrt_rtx")
        return "cuda" if on_gpu or self.settings.provider in GPU_PROVIDERS else "cpu"

    def open_bundle(self) -> Bundle:
        """Open the bundle.

        Raises:
            BundleError: If it is missing or damaged.
        """
        return Bundle.open(embedded_bundle() if self.bundle is None else self.bundle)


def torch_precision(backend: str, precision: str, *, on_gpu: bool) -> str:
    """Return the precision in which PyTorch is measured beside a bundle's graph.

    Args:
        backend: One of `TORCH_BACKENDS`.
        precision: Precision of the bundle's graph.
        on_gpu: Whether PyTorch runs on a GPU.

    Returns:
        Half precision for the network as it is exported, if the graph has it; `AUTOCAST` for
        the compiled published order on a GPU; else "fp32".
    """
    if backend == "published-compiled":
        return AUTOCAST if on_gpu else "fp32"
    return precision if backend != "published" and precision in HALVES else "fp32"


class LoadedModel(Protocol):
    """A loaded model."""

    @property
    def measures(self) -> tuple[Measures, ...]:
        """Ways to time it.

        "gpu" is the graph with arrays that stay on the GPU, "graph" the graph with arrays in
        host memory, "end-to-end" an image from array to array.
        """

    def call(self, case: Case, measures: Measures) -> Callable[[], object]:
        """Return a function that makes one run; its inputs are prepared here."""

    def close(self) -> None:
        """Free the model."""


def load_model(target: ModelTarget) -> LoadedModel:
    """Load a model, without a self-test.

    Raises:
        UsageError: If the checkpoint is not the bundle's, or PyTorch has no such precision.
        BackendError: If the backend's library is not installed.
        ProviderError: If the provider or the device is missing.
        BundleError: If the bundle holds no such model or engine, or it is damaged.
    """
    bundle, settings = target.open_bundle(), target.settings
    if settings.backend in TORCH_BACKENDS:
        return _torch_model(bundle, target)
    if target.place == "cuda" and settings.backend != "onnxruntime":
        settings = replace(settings, threads=None)
    return _SessionModel(bundle, settings.start(bundle), target)


def check_target(target: ModelTarget) -> None:
    """Run the golden pair of a bundle in a session of its own; PyTorch has no such test.

    Raises:
        ParityError: If the golden pair is missed.
        FlowsrError: As `load_model`.
    """
    settings = target.settings
    if settings.backend not in TORCH_BACKENDS:
        replace(settings, threads=None).open(target.open_bundle()).close()


class _SessionModel:
    """A bundle on a backend of the runtime."""

    measures: tuple[Measures, ...] = ("graph", "end-to-end")

    def __init__(self, bundle: Bundle, session: Session, target: ModelTarget) -> None:
        self._bundle, self._session = bundle, session
        self._gpu = f"cuda:{target.settings.device}"
        if target.place == "cuda" and _torch_has_gpu():
            self.measures = ("gpu", *self.measures)
        # Without a limit an image is one run, which can be compared with the graph's.
        self._upscaler = Upscaler(bundle, session, memory_budget=2**62)

    def call(self, case: Case, measures: Measures) -> Callable[[], object]:
        if measures == "graph":
            feeds = graph_feeds(self._bundle.manifest, case)
            return lambda: self._session.run(feeds)
        if measures == "gpu":
            return self._resident(case)
        images = np.ascontiguousarray(to_depth(sample_pictures(case), 8).transpose(0, 2, 3, 1))
        temperature = TEMPERATURE if self._bundle.manifest.latents else None

        def upscale() -> None:
            for image in images:
                self._upscaler.upscale(
                    image, size=case.size, temperature=temperature, warn=lambda line: None
                )

        return upscale

    def _resident(self, case: Case) -> Callable[[], object]:
        """Return a run whose images and latents stay in GPU memory."""
        session: Any = self._session  # those of GPUs have `run_device`
        feeds = {
            # The values of `geometry` decide shapes, so they are needed in host memory.
            name: array if name == "geometry" else _on_gpu(array, self._gpu)
            for name, array in graph_feeds(self._bundle.manifest, case).items()
        }
        return lambda: session.run_device(feeds)

    def close(self) -> None:
        self._upscaler.close()


def _torch_model(bundle: Bundle, target: ModelTarget) -> LoadedModel:
    from flowsr_export.bench.torch_target import TorchModel
    from flowsr_export.parity.reference import reference_of

    settings = replace(target.settings, precision=_checked_precision(target.settings))
    checkpoint = reference_of(bundle, target.model, target.prior)
    return TorchModel(checkpoint.network, bundle.manifest, settings)


def _checked_precision(settings: SessionSettings) -> str:
    backend, on_gpu = settings.backend, settings.provider != "cpu"
    choices = dict.fromkeys(
        torch_precision(backend, precision, on_gpu=on_gpu) for precision in ("fp32", *HALVES)
    )
    if settings.precision == AUTO:
        return next(iter(choices))
    if settings.precision not in choices:
        raise UsageError(
            f"precision must be {' or '.join(choices)} with {backend}, "
            f"got {settings.precision}",
            option="precision",
        )
    return settings.precision


def _torch_has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _on_gpu(array: NDArray[Any], place: str) -> Any:
    import torch

    return torch.from_numpy(array).to(place)
