"""Models to evaluate: bicubic, a bundle on a backend, or a checkpoint in PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.dataset import Pair
from flowsr_export.evaluation.imresize import WHITE, matlab_bicubic
from flowsr_export.evaluation.protocol import Values
from flowsr_runtime import Bundle, SessionSettings, Upscaler, embedded_bundle
from flowsr_runtime.backends.session import AUTO, Choice
from flowsr_runtime.errors import NonFiniteError, ScaleError, UsageError
from flowsr_runtime.geometry import Window, exact_scale
from flowsr_runtime.pictures.pixels import full_range, store
from flowsr_runtime.tiling.graph_inputs import graph_inputs
from flowsr_runtime.tiling.noise import check_noise

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Network
    from flowsr_lp.linf.query import Border
    from flowsr_runtime.bundle.manifest import Latent

__all__ = [
    "BICUBIC",
    "NAME",
    "TORCH",
    "EvaluatedModel",
    "Upscaled",
    "bundle_model",
    "open_model",
    "torch_model",
]

Picture = NDArray[np.uint8]

NAME = "flowsr-lp"
HASHES = ("model_sha256", "prior_sha256")

# The range that a guarded network keeps, with the rounding of its last operations.
SLIGHTLY_OUT = (-0.1 - 1e-5, 1.1 + 1e-5)

TORCH = "torch"
"""Backend that runs checkpoints, beside those of the runtime."""


@dataclass(frozen=True)
class Upscaled:
    """One result.

    Attributes:
        picture: RGB image, (H, W, 3) uint8.
        values: The same before it was rounded, (H, W, 3) float32 in [0, 255]; None of a method
            that returns eight-bit images.
        warning: One line if values are far out of range, else None.
        out_of_range: Share in percent of the values outside [-0.1, 1.1] before they were
            clamped; 0 for a method that returns eight-bit images.
    """

    picture: Picture
    warning: str | None = None
    out_of_range: float = 0.0
    values: NDArray[np.float32] | None = field(default=None, repr=False)

    def levels(self, form: Values) -> NDArray[Any]:
        """Return the image as a protocol compares it, with levels in [0, 255]."""
        return self.values if form == "float" and self.values is not None else self.picture


@dataclass(frozen=True)
class EvaluatedModel:
    """An open model, or another method of upscaling.

    Attributes:
        name: Name in tables.
        upscale: Upscales an image (h, w, 3) uint8 to a size (H, W) with a random seed.
        is_random: Whether another seed gives another image.
        scale: The only supported scale, None for any.
        patch: Side of the model's patches in output pixels, None if it has none.
        eight_bit: Whether its values cannot be seen before they are clamped.
        provider: Device type or provider.
        about: Description for the report: `what`, `family`, hashes.
        libraries: Versions of the libraries that run it.
        choice: How a bundle is run, None for anything else.
        at: The model with another standard deviation of its noise; None for one without.
        find: Finds the result of a pair that was made elsewhere, instead of `upscale`.
    """

    name: str
    upscale: Callable[[Picture, tuple[int, int], int], Upscaled]
    is_random: bool = False
    scale: str | None = None
    patch: int | None = None
    eight_bit: bool = False
    provider: str = "cpu"
    about: dict[str, Any] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    choice: Choice | None = None
    at: Callable[[float], EvaluatedModel] | None = None
    find: Callable[[Pair, tuple[int, int]], Upscaled] | None = None

    def check_scales(self, scales: tuple[str, ...]) -> None:
        """Check scales before anything is computed.

        Raises:
            ScaleError: If one is not a number of at least 1.
            UsageError: If the model does not support one.
        """
        for scale in scales:
            exact = exact_scale(scale)
            if self.scale is not None and exact != exact_scale(self.scale):
                raise UsageError(
                    f"this model only supports scale {self.scale}, got {scale}", option="scale"
                )


BICUBIC = EvaluatedModel("bicubic", lambda low, size, seed: Upscaled(matlab_bicubic(low, size)))
"""MATLAB's bicubic interpolation."""


@contextmanager
def open_model(
    settings: SessionSettings,
    bundle: Path | None = None,
    model: Path | None = None,
    prior: Path | None = None,
    *,
    temperature: float | None = None,
    truncate: bool = False,
    memory_budget: int | None = None,
    halo: Literal["default", "exact"] = "default",
    border: Border = "extend",
) -> Iterator[EvaluatedModel]:
    """Open a model and close it afterwards.

    Args:
        settings: Session settings; the backend may be `TORCH`.
        bundle: Folder of the bundle; None for the built-in one, or with PyTorch for `model`.
        model: Checkpoint of the flow, for PyTorch; None for the built-in one.
        prior: Checkpoint of the latent module.
        temperature: Standard deviation of the noise; None with a learned prior.
        truncate: Truncate values to eight bits instead of rounding them.
        memory_budget: Bytes of activations of one run of a bundle; None for the bundle's own.
        halo: Overlap of the tiles of a bundle.
        border: Rule for patches beyond the edge; others than "extend" are for PyTorch.

    Yields:
        The model.

    Raises:
        UsageError: If arguments exclude each other, or the checkpoint is not the bundle's.
        CheckpointError: If a checkpoint is damaged.
        BackendError: If the backend's library is not installed.
        ProviderError: If the provider or the device is missing.
        BundleError: If the bundle is missing, damaged or lacks the graph.
    """
    if settings.backend == TORCH:
        if memory_budget is not None or halo != "default":
            raise UsageError("memory_budget and halo are for bundles", option="backend")
        yield _open_checkpoint(settings, bundle, model, prior, temperature, truncate, border)
        return
    if border != "extend":
        wrong = f"border {border} needs backend {TORCH}; exported graphs compute border extend"
        raise UsageError(wrong, option="border")
    if model is not None or prior is not None:
        wrong = f"model and prior need backend {TORCH}, got {settings.backend}"
        raise UsageError(wrong, option="model")
    opened = Bundle.open(bundle or embedded_bundle())
    session, choice = settings.choose(opened)
    with Upscaler(opened, session, memory_budget=memory_budget, halo=halo) as upscaler:
        yield replace(
            bundle_model(upscaler, temperature, truncate),
            provider=session.provider,
            about=_about(opened, choice.settings.precision, bundle),
            libraries=_libraries(session.backend),
            choice=choice,
        )


def bundle_model(
    upscaler: Upscaler, temperature: float | None = None, truncate: bool = False
) -> EvaluatedModel:
    """Return an open bundle as a model; see `open_model`.

    Raises:
        UsageError: If the bundle needs a temperature or takes none. One with graphs of latents
            takes both ways: its learned prior without a temperature, noise with one.
    """
    manifest = upscaler.bundle.manifest
    graphs = manifest.latent_graphs
    both = graphs is not None and graphs.sample is not None  # the prior, and noise beside it
    if both:
        check_noise(0, temperature or 0.0)
    else:
        _check_temperature(manifest.latents, temperature)

    def upscale(low: Picture, size: tuple[int, int], seed: int) -> Upscaled:
        lines: list[str] = []
        asked: dict[str, Any] = {"seed": seed, "temperature": temperature, "size": size}
        asked["warn"] = lines.append
        if manifest.io == "uint8":
            picture = upscaler.upscale(low, truncate=truncate, **asked)
            return Upscaled(picture, "; ".join(lines) or None)
        values = upscaler.upscale(full_range(low), clamp=False, **asked)
        return _eight_bit(values, truncate, "; ".join(lines) or None)

    return EvaluatedModel(
        NAME,
        upscale,
        is_random=(bool(manifest.latents) or both) and temperature not in (None, 0),
        scale=None if manifest.scale is None else str(manifest.scale),
        patch=manifest.tiling.exact.patch,
        eight_bit=manifest.io == "uint8",
        at=partial(bundle_model, upscaler, truncate=truncate)
        if manifest.latents or both
        else None,
    )


def torch_model(
    network: Network,
    *,
    place: str = "cpu",
    temperature: float | None = None,
    truncate: bool = False,
    border: Border = "extend",
) -> EvaluatedModel:
    """Return a network in eager PyTorch, with the noise of the runtime, as a model.

    Args:
        network: LINF-LP or SRFlow-LP.
        place: PyTorch's device, such as "cuda:0".
        temperature: Standard deviation of the noise; None with a learned prior.
        truncate: Truncate values to eight bits instead of rounding them.
        border: Rule for patches beyond the edge, of LINF.

    Raises:
        UsageError: If the network needs a temperature or takes none.
    """
    import torch

    from flowsr_export.deployment.families import deployment_of
    from flowsr_export.inputs.cases import Case
    from flowsr_lp import LinfLP

    deployment = deployment_of(network.to(place))
    _check_temperature(deployment.latents, temperature)
    if border != "extend" and not isinstance(network, LinfLP):
        raise UsageError(f"border {border} is for LINF, got SRFlow", option="border")

    def again(temperature: float) -> EvaluatedModel:
        return torch_model(
            network, place=place, temperature=temperature, truncate=truncate, border=border
        )

    def upscale(low: Picture, size: tuple[int, int], seed: int) -> Upscaled:
        case = Case((low.shape[0], low.shape[1]), size)
        scale = deployment.scale
        if scale is not None and size != tuple(int(side * scale) for side in case.lr):
            raise ScaleError(f"this model only supports scale {float(scale):g}, got {case}")
        rgb = torch.from_numpy(full_range(low.transpose(2, 0, 1)[None])).to(place)
        window = Window.whole(deployment.padded(case.lr), deployment.padded_size(case))
        if border != "extend":
            assert isinstance(network, LinfLP)
            p, grid = network.linf.patch_size, network.latent_size(size, border, case.lr)
            window = Window.whole(case.lr, (p * grid[0], p * grid[1]))
        inputs = graph_inputs(
            low[None],
            window,
            latents=deployment.latents,
            geometry=False,
            seed=seed,
            temperature=temperature or 0.0,
        )
        noise = [torch.from_numpy(inputs[one.name]).to(place) for one in deployment.latents]
        with torch.inference_mode():
            if border == "extend":
                result = deployment.reference(rgb, size, noise or None)
            else:
                result = network(rgb, size, noise[0] if noise else None, border).output
            output = result[0].cpu().numpy()
        if not np.isfinite(output).all():
            raise NonFiniteError("the model gives NaN or infinity")
        return _eight_bit(output.transpose(1, 2, 0).copy(), truncate)

    return EvaluatedModel(
        NAME,
        upscale,
        is_random=bool(deployment.latents) and temperature != 0,
        scale=None if deployment.scale is None else str(deployment.scale),
        patch=deployment.exact_halo().patch,
        provider=place,
        about={"family": deployment.family},
        libraries={"torch": torch.__version__},
        at=again if deployment.latents else None,
    )


def _eight_bit(
    values: NDArray[np.float32], truncate: bool, warning: str | None = None
) -> Upscaled:
    """Count the values out of range, (H, W, 3) unclamped, and make an image of eight bits."""
    beyond = np.count_nonzero((values < SLIGHTLY_OUT[0]) | (values > SLIGHTLY_OUT[1]))
    levels = np.clip(values, 0, 1) * np.float32(WHITE)
    picture = np.empty(values.shape, np.uint8)
    store(values, picture, clamp=True, truncate=truncate)
    return Upscaled(picture, warning, 100 * beyond / values.size, levels)


def _open_checkpoint(
    settings: SessionSettings,
    bundle: Path | None,
    model: Path | None,
    prior: Path | None,
    temperature: float | None,
    truncate: bool,
    border: Border,
) -> EvaluatedModel:
    import torch

    from flowsr_export.parity.reference import reference_of
    from flowsr_lp import embedded_checkpoint, load_checkpoint

    place = _place(settings)
    if prior is not None and model is None:
        raise UsageError("prior needs model, got a prior alone", option="prior")
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if bundle is not None:
        checkpoint = reference_of(Bundle.open(bundle), model, prior)
    else:
        checkpoint = load_checkpoint(*((model, prior) if model else embedded_checkpoint()))
    how: dict[str, Any] = {"place": place, "truncate": truncate, "border": border}
    opened = torch_model(checkpoint.network, temperature=temperature, **how)
    what = "built-in checkpoint" if model is None else str(model)
    hashes = {key: getattr(checkpoint, key) for key in HASHES}
    return replace(opened, about={**opened.about, "what": what, **hashes})


def _place(settings: SessionSettings) -> str:
    """Return PyTorch's device; refuse settings that only bundles have."""
    plain = SessionSettings(TORCH, settings.provider, settings.device, settings.threads)
    asked = replace(settings, precision=AUTO, self_test=True)  # PyTorch is the reference
    if asked != plain or settings.precision not in (AUTO, "fp32"):
        wrong = f"precision must be fp32 and workers and CUDA graphs unset with backend {TORCH}"
        raise UsageError(wrong, option="backend")
    if settings.provider not in (None, "cpu", "cuda"):
        wrong = f"provider must be cpu or cuda with backend {TORCH}, got {settings.provider!r}"
        raise UsageError(wrong, option="provider")
    on_gpu = settings.provider == "cuda" or str(settings.device).startswith("cuda")
    return f"cuda:{settings.index}" if on_gpu else "cpu"


def _about(bundle: Bundle, precision: str, path: Path | None) -> dict[str, Any]:
    """Describe a bundle at a path, None for the built-in one, for the report."""
    name = bundle.model_name(precision)
    stated = bundle.manifest.raw.get("model")
    hashes = {key: stated.get(key) for key in HASHES} if isinstance(stated, dict) else {}
    return {
        "what": f"{name} of {'built-in bundle' if path is None else path}",
        "family": bundle.manifest.family,
        "graph_sha256": bundle.manifest.files[name].sha256,
        **hashes,
    }


def _libraries(backend: str) -> dict[str, str]:
    """Return the version of the library that runs a bundle."""
    return {backend: str(sys.modules[backend].__version__)} if backend in sys.modules else {}


def _check_temperature(latents: Sequence[Latent], temperature: float | None) -> None:
    """Check that a temperature is given if and only if a model has latent inputs."""
    if latents and temperature is None:
        wrong = "temperature is needed by a model without a learned prior (0 gives the mode)"
        raise UsageError(wrong, option="temperature")
    if temperature is not None and not latents:
        wrong = f"temperature needs a model without a learned prior, got {temperature:g}"
        raise UsageError(wrong, option="temperature")
    check_noise(0, temperature or 0.0)
