"""Train the learned prior of a flow on a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowsr_lp import (
    LINF,
    LinfLP,
    SRFlow,
    SrflowLP,
    SrflowPrior,
    load_checkpoint,
    prior_from_spec,
    save_weights,
    srflow_prior_from_spec,
)
from flowsr_lp.linf.prior import EdsrLatent, Prior
from flowsr_lp.perceptual import VggLoss
from flowsr_lp.training.flows import begin, flow_of
from flowsr_lp.training.linf import PriorLoss
from flowsr_lp.training.penalties import Penalties
from flowsr_lp.training.run import (
    Loop,
    Started,
    at_own_scale,
    carry_out,
    check_linf_only,
    check_windows,
    cut_crops,
    held_out_crops,
    opened,
    vgg_loss,
)
from flowsr_lp.training.srflow import SrflowPriorLoss
from flowsr_lp.training.windows import WindowPriorLoss
from flowsr_runtime.errors import UsageError

__all__ = ["PriorRecipe", "train_prior"]

FILE = "prior.safetensors"


@dataclass(frozen=True)
class PriorRecipe:
    """Architecture and loss of a prior.

    Attributes:
        name: Kind of latent module.
        args: Sizes that differ from the published ones.
        vgg_layers: Layers of the VGG whose features are compared; its last one if none.
        perceptual_weight: Weight of the distance of the features.
        latent_weight: Weight of the L1 between latents.
        pixel_weight: Weight of the L1 between pixels.
        penalties: Weights of the penalties on artifacts (LINF).
        likelihood_weight: Weight of the flow's negative log-likelihood; above 0 trains the
            flow too (LINF).
    """

    name: str
    args: dict[str, int]
    vgg_layers: Sequence[str]
    perceptual_weight: float
    latent_weight: float
    pixel_weight: float
    penalties: Penalties
    likelihood_weight: float = 0.0


def train_prior(
    model: Path,
    vgg: Path,
    recipe: PriorRecipe,
    loop: Loop,
    started: Started,
    blocks: Sequence[int] | None = None,
) -> Path:
    """Train the prior of a flow and write `prior.safetensors` into the run's folder.

    With a weight of the likelihood the flow is trained too and `model.safetensors` is written.

    Args:
        model: The flow, a released file or one of ours.
        vgg: ImageNet weights, Caffe's VGG16 or torchvision's VGG19.
        recipe: Architecture and loss of the prior.
        loop: Settings of the run.
        started: Called with the first step; returns the callback for every step.
        blocks: Stacked blocks of an SRFlow network that its file does not tell.

    Returns:
        The file.

    Raises:
        FlowsrError: As `train_flow`, and if the model or the VGG cannot be read.
    """
    with opened(loop) as processes:
        checkpoint = load_checkpoint(model, blocks=blocks)
        flow = flow_of(checkpoint.network)
        likelihood = {"likelihood_weight": recipe.likelihood_weight}
        check_linf_only(flow, recipe.penalties, loop.augmentation, likelihood)
        loop = at_own_scale(loop, flow)
        check_windows(loop, flow, recipe.penalties, likelihood)
        torch.manual_seed(loop.settings.seed)
        spec, prior = _new_prior(recipe, flow)
        if loop.start is not None:
            source = load_checkpoint(model, loop.start, blocks).network.prior
            begin(prior, {} if source is None else source.state_dict(), loop.start)
        _check_batch(loop, processes.share(loop.batch), prior, _coarsest_patch(flow))
        perceptual = vgg_loss(vgg, recipe.vgg_layers, loop)
        objective = _prior_loss(flow, prior, perceptual, recipe, loop)
        crops = cut_crops(loop, flow, processes)
        described = {
            "prior": spec,
            "model_sha256": checkpoint.model_sha256,
            "vgg_layers": list(perceptual.features.layers),
            "weights": list(objective.weights),
            "penalties": asdict(recipe.penalties),
            **likelihood,
        }
        held_out = held_out_crops(loop, flow, processes)
        model_spec = checkpoint.config["model"] if recipe.likelihood_weight else None
        arguments = objective, crops, held_out, loop, processes, described, started
        carry_out(*arguments, partial(_save_prior, spec, model_spec))
    return loop.output / FILE


def _new_prior(
    recipe: PriorRecipe, flow: LINF | SRFlow
) -> tuple[dict[str, Any], Prior | SrflowPrior]:
    """Make a latent module for a flow: its spec and the module."""
    if isinstance(flow, LINF):
        spec = {"name": recipe.name, "args": {"in_chans": flow.width, **recipe.args}}
        return spec, prior_from_spec(spec)
    if recipe.name != "unet":
        raise UsageError(f"the prior of an SRFlow model must be unet, got {recipe.name}")
    widths = [latent.channels for latent in flow.latents]
    spec = {"name": recipe.name, "args": {"in_chans": widths, **recipe.args}}
    return spec, srflow_prior_from_spec(spec)


def _prior_loss(
    flow: LINF | SRFlow,
    prior: Prior | SrflowPrior,
    perceptual: VggLoss,
    recipe: PriorRecipe,
    loop: Loop,
) -> PriorLoss | SrflowPriorLoss:
    weights = (recipe.perceptual_weight, recipe.latent_weight, recipe.pixel_weight)
    if isinstance(flow, LINF):
        assert not isinstance(prior, SrflowPrior)
        network, likelihood = LinfLP(flow, prior), recipe.likelihood_weight
        loss = PriorLoss if loop.scale_per == "step" else WindowPriorLoss
        return loss(network, perceptual, *weights, recipe.penalties, likelihood)
    assert isinstance(prior, SrflowPrior)
    return SrflowPriorLoss(SrflowLP(flow, prior), perceptual, *weights)


def _save_prior(
    spec: dict[str, Any],
    model: dict[str, Any] | None,
    folder: Path,
    weights: dict[str, Tensor],
) -> None:
    """Write a prior and, if `model` describes one, the flow that was trained with it."""
    if model is not None:
        save_weights(folder / "model.safetensors", "model", model, _part(weights, "linf."))
        weights = _part(weights, "prior.")
    save_weights(folder / FILE, "prior", spec, weights)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights of a part of the network under their own names."""
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _coarsest_patch(flow: LINF | SRFlow) -> int:
    """Output pixels per cell and side of the coarsest latent."""
    return flow.patch_size if isinstance(flow, LINF) else flow.latents[-1].patch


def _check_batch(loop: Loop, share: int, prior: Prior | SrflowPrior, patch: int) -> None:
    """Batch normalization needs two values per channel at the deepest level."""
    rows = -(-loop.smallest_crop // patch)
    deepest = max(rows // prior.reduction, 1)
    if not isinstance(prior, EdsrLatent) and share * deepest**2 < 2:
        raise UsageError("batch must be at least 2 for crops this small, got 1")
