"""The model that is evaluated: a bundle on a backend, or a checkpoint in PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flowsr_export.evaluation.methods import BundleMethod, Method, TorchMethod
from flowsr_runtime import Bundle, SessionSettings, Upscaler, embedded_bundle
from flowsr_runtime.errors import UsageError
from flowsr_runtime.geometry import exact_scale

__all__ = ["TORCH", "EvaluatedModel", "EvaluatedModelConfig", "open_subject"]

HASHES = ("model_sha256", "prior_sha256")

TORCH = "torch"
"""The backend that runs checkpoints, beside those of the runtime."""


@dataclass(frozen=True)
class EvaluatedModelConfig:
    """Which model, and on what.

    Attributes:
        settings: As for a session; the backend may be `TORCH`.
        bundle: Its folder, None for the built-in one, or with PyTorch for `model` alone.
        model: Checkpoint of its flow, for PyTorch; None for the built-in one.
        prior: Checkpoint of its latent module.
        temperature: Of the noise; None with a learned prior.
        truncate: Cut values down to eight bits in place of rounding them.
        memory_budget: Bytes of activations of one run of a bundle; None for what it states.
        halo: Overlap of its tiles.
    """

    settings: SessionSettings
    bundle: Path | None = None
    model: Path | None = None
    prior: Path | None = None
    temperature: float | None = None
    truncate: bool = False
    memory_budget: int | None = None
    halo: Literal["default", "exact"] = "default"


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that is open.

    Attributes:
        method: What enlarges pictures.
        scale: Its only scale, None for any.
        provider: What it computes with.
        about: What it is, for the report: `what`, `family`, hashes.
        libraries: Versions of what runs it.
    """

    method: Method
    scale: str | None
    provider: str
    about: dict[str, Any]
    libraries: dict[str, str]

    def check_scales(self, scales: tuple[str, ...]) -> None:
        """Check scales before anything is computed.

        Raises:
            ScaleError: If one is not a number of at least 1.
            UsageError: If the model has another scale only.
        """
        for scale in scales:
            exact = exact_scale(scale)
            if self.scale is not None and exact != exact_scale(self.scale):
                raise UsageError(f"this model enlarges {self.scale} times only, got {scale}")


@contextmanager
def open_subject(config: EvaluatedModelConfig) -> Iterator[EvaluatedModel]:
    """Open the model and close it afterwards.

    Args:
        config: Which model, and on what.

    Yields:
        The model.

    Raises:
        UsageError: If the options do not go together, or the checkpoint is not the bundle's.
        CheckpointError: If a checkpoint is damaged.
        BackendError: If the backend's library is not installed.
        ProviderError: If the provider or the device is missing.
        BundleError: If the bundle is missing, damaged or lacks the graph.
    """
    if config.settings.backend == TORCH:
        yield _torch_subject(config)
        return
    if config.model is not None or config.prior is not None:
        raise UsageError(f"--model and --prior are for --backend {TORCH}")
    bundle = Bundle.open(config.bundle or embedded_bundle())
    session = config.settings.open(bundle)
    with Upscaler(
        bundle, session, memory_budget=config.memory_budget, halo=config.halo
    ) as upscaler:
        method = BundleMethod(upscaler, config.temperature, config.truncate)
        scale = bundle.manifest.scale
        yield EvaluatedModel(
            method,
            None if scale is None else str(scale),
            session.provider,
            _about_bundle(bundle, config),
            _libraries(session.backend),
        )


def _about_bundle(bundle: Bundle, config: EvaluatedModelConfig) -> dict[str, Any]:
    name = bundle.model_name(config.settings.precision)
    stated = bundle.manifest.raw.get("model")
    hashes = {key: stated.get(key) for key in HASHES} if isinstance(stated, dict) else {}
    where = "built-in bundle" if config.bundle is None else str(config.bundle)
    return {
        "what": f"{name} of {where}",
        "family": bundle.manifest.family,
        "graph_sha256": bundle.manifest.files[name].sha256,
        **hashes,
    }


def _libraries(backend: str) -> dict[str, str]:
    """Return the version of what runs a bundle, which is imported by now."""
    return {backend: str(sys.modules[backend].__version__)} if backend in sys.modules else {}


def _torch_subject(config: EvaluatedModelConfig) -> EvaluatedModel:
    import torch

    from flowsr_export.deployment.families import deployment_of
    from flowsr_export.parity.reference import reference_of
    from flowsr_lp import embedded_checkpoint, load_checkpoint

    place = _place(config)
    if config.prior is not None and config.model is None:
        raise UsageError("--prior needs --model")
    if config.settings.threads is not None:
        torch.set_num_threads(config.settings.threads)
    if config.bundle is not None:
        checkpoint = reference_of(Bundle.open(config.bundle), config.model, config.prior)
    elif config.model is not None:
        checkpoint = load_checkpoint(config.model, config.prior)
    else:
        checkpoint = load_checkpoint(*embedded_checkpoint())
    deployment = deployment_of(checkpoint.network)
    method = TorchMethod(
        checkpoint.network,
        place=place,
        temperature=config.temperature,
        truncate=config.truncate,
    )
    about = {
        "what": "built-in checkpoint" if config.model is None else str(config.model),
        "family": deployment.family,
        "model_sha256": checkpoint.model_sha256,
        "prior_sha256": checkpoint.prior_sha256,
    }
    scale = None if deployment.scale is None else str(deployment.scale)
    return EvaluatedModel(method, scale, place, about, {"torch": torch.__version__})


def _place(config: EvaluatedModelConfig) -> str:
    """Return PyTorch's device; refuse what only a bundle can be asked."""
    settings = config.settings
    plain = SessionSettings(TORCH, settings.provider, settings.device, settings.threads)
    if settings != plain or config.memory_budget is not None or config.halo != "default":
        raise UsageError(
            f"--backend {TORCH} runs whole pictures in fp32; it takes no --precision, "
            "--workers, --cuda-graphs, --memory-budget or --halo"
        )
    if settings.provider not in (None, "cpu", "cuda"):
        raise UsageError(
            f"provider must be cpu or cuda with {TORCH}, got {settings.provider!r}"
        )
    return f"cuda:{settings.device}" if settings.provider == "cuda" else "cpu"
