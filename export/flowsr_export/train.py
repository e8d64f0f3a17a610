"""Train a flow, or the learned prior of one, on a folder of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from flowsr_lp import (
    LinfLP,
    linf_from_spec,
    load_checkpoint,
    prior_from_spec,
    save_weights,
)
from flowsr_lp.crops import Crops, load_pictures
from flowsr_lp.perceptual import VggLoss
from flowsr_lp.prior import Prior, UNet
from flowsr_lp.training import FlowLoss, PriorLoss, Settings, steps_done, train
from flowsr_runtime.errors import OutputError, ProviderError, UsageError

__all__ = ["Loop", "PriorRecipe", "train_flow", "train_prior"]

Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Loop:
    """What the training of a flow and of a prior have in common.

    Attributes:
        pictures: Folder of pictures.
        output: Folder of the run.
        settings: Length, rate, averaging, seed.
        batch: Crops per step.
        lr_size: Side of the low-resolution crops in pixels.
        scales: Range of the scale, one drawn per step.
        threads: CPU threads; PyTorch's choice when None.
        device: Where to compute.
        start: Weights to begin with, of the same architecture; new ones when None.
    """

    pictures: Path
    output: Path
    settings: Settings
    batch: int
    lr_size: int
    scales: tuple[float, float]
    threads: int | None
    device: Literal["cpu", "cuda"]
    start: Path | None = None

    @property
    def largest_crop(self) -> int:
        """Side in pixels of a high-resolution crop at the largest scale."""
        return round(self.lr_size * self.scales[1])

    @property
    def smallest_crop(self) -> int:
        """Side in pixels of a high-resolution crop at the smallest scale."""
        return round(self.lr_size * self.scales[0])


@dataclass(frozen=True)
class PriorRecipe:
    """What the prior is and what it is trained for.

    Attributes:
        name: Kind of latent module.
        args: Its sizes, those that differ from the published ones.
        vgg_layers: Layers of VGG16 whose features are compared.
        perceptual_weight: Weight of the distance of the features.
        latent_weight: Weight of the L1 between latents.
        pixel_weight: Weight of the L1 between pixels.
    """

    name: str
    args: dict[str, int]
    vgg_layers: Sequence[str]
    perceptual_weight: float
    latent_weight: float
    pixel_weight: float


def train_flow(
    spec: dict[str, Any], pixel_weight: float, loop: Loop, started: Callable[[int], Report]
) -> Path:
    """Train a flow by likelihood and write `model.safetensors` into the run's folder.

    Args:
        spec: `{"name": "linf" | "linf-patch", "args": {...}}`.
        pixel_weight: Weight of the L1 between the flow's mode and the residual.
        loop: How.
        started: Called with the step that comes first; gives what is told of every step.

    Returns:
        The file.

    Raises:
        FlowsrError: If the request makes no sense, the pictures cannot be read, the folder
            holds another run or cannot be written, or the loss stops being finite.
    """
    device = _prepare(loop)
    first = steps_done(loop.output)
    torch.manual_seed(loop.settings.seed)
    linf = linf_from_spec(spec)
    if loop.start is not None:
        _begin(linf, load_checkpoint(loop.start).network.linf, loop.start)
    crops = _crops(loop)
    recipe = {"model": spec, "pixel_weight": pixel_weight, **_describe(loop, crops)}
    objective = FlowLoss(linf, pixel_weight)
    report = started(first)
    weights = train(objective, crops, loop.settings, loop.output, report, device, recipe)
    path = loop.output / "model.safetensors"
    save_weights(path, "model", spec, weights)
    return path


def train_prior(
    model: Path,
    vgg: Path,
    recipe: PriorRecipe,
    loop: Loop,
    started: Callable[[int], Report],
) -> Path:
    """Train the prior of a frozen flow and write `prior.safetensors` into the run's folder.

    Args:
        model: The flow, a released file or one of ours.
        vgg: VGG16's ImageNet weights, safetensors.
        recipe: What to train and for what.
        loop: How.
        started: Called with the step that comes first; gives what is told of every step.

    Returns:
        The file.

    Raises:
        FlowsrError: As `train_flow`, and if the model or the VGG cannot be read.
    """
    device = _prepare(loop)
    first = steps_done(loop.output)
    checkpoint = load_checkpoint(model)
    linf = checkpoint.network.linf
    spec = {"name": recipe.name, "args": {"in_chans": linf.width, **recipe.args}}
    torch.manual_seed(loop.settings.seed)
    prior = prior_from_spec(spec)
    if loop.start is not None:
        _begin(prior, load_checkpoint(model, loop.start).network.prior, loop.start)
    _check_batch(loop, prior, linf.patch_size)
    perceptual = VggLoss(vgg, recipe.vgg_layers)
    if loop.smallest_crop < perceptual.features.smallest:
        raise UsageError(
            f"crops must be at least {perceptual.features.smallest} pixels a side for "
            f"{recipe.vgg_layers[-1]}, got {loop.smallest_crop} at scale {loop.scales[0]:g}"
        )
    objective = PriorLoss(
        LinfLP(linf, prior),
        perceptual,
        recipe.perceptual_weight,
        recipe.latent_weight,
        recipe.pixel_weight,
    )
    crops = _crops(loop)
    described = {
        "prior": spec,
        "model_sha256": checkpoint.model_sha256,
        "vgg_layers": list(recipe.vgg_layers),
        "weights": list(objective.weights),
        **_describe(loop, crops),
    }
    report = started(first)
    weights = train(objective, crops, loop.settings, loop.output, report, device, described)
    path = loop.output / "prior.safetensors"
    save_weights(path, "prior", spec, weights)
    return path


def _prepare(loop: Loop) -> torch.device:
    """Check what can be checked at once, set the threads, make the folder."""
    if not 1 <= loop.scales[0] <= loop.scales[1]:
        raise UsageError(
            f"scales must be a range from 1 up, got {loop.scales[0]:g},{loop.scales[1]:g}"
        )
    if loop.device == "cuda" and not torch.cuda.is_available():
        raise ProviderError("PyTorch finds no CUDA device; use --device cpu")
    if loop.threads is not None:
        torch.set_num_threads(loop.threads)
    try:
        loop.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {loop.output}: {error.strerror}") from error
    return torch.device(loop.device)


def _crops(loop: Loop) -> Crops:
    pictures = load_pictures(loop.pictures, loop.largest_crop)
    return Crops(pictures, loop.batch, loop.lr_size, loop.scales, loop.settings.seed)


def _describe(loop: Loop, crops: Crops) -> dict[str, Any]:
    return {
        "batch": loop.batch,
        "lr_size": loop.lr_size,
        "scales": list(loop.scales),
        "pictures": len(crops.pictures),
        **({} if loop.start is None else {"start": _sha256(loop.start)}),
    }


def _begin(module: nn.Module, source: nn.Module | None, path: Path) -> None:
    """Give a module the weights of another of the same architecture."""
    weights = {} if source is None else source.state_dict()
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    if shapes != {name: tensor.shape for name, tensor in module.state_dict().items()}:
        raise UsageError(f"{path} is of another architecture than the one to train")
    module.load_state_dict(weights)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_batch(loop: Loop, prior: Prior, patch: int) -> None:
    """Batch normalisation needs two values per channel at the deepest level."""
    rows = -(-loop.smallest_crop // patch)
    deepest = max(rows // prior.reduction, 1)
    if isinstance(prior, UNet) and loop.batch * deepest**2 < 2:
        raise UsageError("batch must be at least 2 for crops this small, got 1")
