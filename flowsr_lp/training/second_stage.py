"""LINF's second stage: the flow's mode and its samples, beside the likelihood."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp import LINF, load_checkpoint
from flowsr_lp.training.flows import FILE, flow_of, save_flow
from flowsr_lp.training.linf import check_weights, density_noise, whole_target
from flowsr_lp.training.loop import Alternating
from flowsr_lp.training.run import (
    Loop,
    Started,
    carry_out,
    check_windows,
    cut_crops,
    held_out_crops,
    opened,
    vgg_loss,
)
from flowsr_lp.training.windows import window_target
from flowsr_runtime.errors import UsageError

__all__ = ["LikelihoodLoss", "OutputLoss", "SecondStage", "train_second_stage"]


@dataclass(frozen=True)
class SecondStage:
    """Losses of the second stage (arXiv 2303.05156).

    Attributes:
        vgg: ImageNet weights, needed with `perceptual_weight`.
        likelihood_weight: Weight of the negative log-likelihood of a patch, in nats.
        pixel_weight: Weight of the L1 between the flow's mode and the residual.
        perceptual_weight: Weight of the distance of VGG features of a sample.
        sample_temperature: Temperature of that sample.

    Raises:
        UsageError: If a number makes no sense, or the VGG is missing.
    """

    vgg: Path | None = None
    likelihood_weight: float = 5e-4
    pixel_weight: float = 1.0
    perceptual_weight: float = 0.025
    sample_temperature: float = 0.8

    def __post_init__(self) -> None:
        """Check the weights."""
        check_weights(self.likelihood_weight, self.pixel_weight, self.perceptual_weight)
        check_weights(self.sample_temperature)
        if not self.likelihood_weight or not self.pixel_weight + self.perceptual_weight:
            raise UsageError(
                "likelihood_weight, and pixel_weight or perceptual_weight, must be above 0 in "
                "the second stage, got 0"
            )
        if self.perceptual_weight and self.vgg is None:
            raise UsageError(
                f"vgg must be given for perceptual_weight {self.perceptual_weight:g}",
                option="vgg",
            )


class LikelihoodLoss:
    """Weighted negative log-likelihood of a patch of the residual, in nats."""

    def __init__(self, linf: LINF, weight: float) -> None:
        """Train `linf`."""
        self.trained = self.linf = linf
        self.weight = weight

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.linf.to(device)

    def __call__(
        self, low: Tensor, high: Tensor, *places: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of whole crops, or of windows with their places."""
        target = (window_target if places else whole_target)(self.linf, low, high, *places)
        noisy = target.residual + density_noise(target.residual)
        nll = -self.linf.log_likelihood(noisy, target.condition).mean()
        return self.weight * nll, {"nll": nll.item() / self.linf.width}


class OutputLoss:
    """L1 of the flow's mode, and VGG features of a sample."""

    def __init__(self, linf: LINF, stage: SecondStage, perceptual: nn.Module | None) -> None:
        """Train `linf`.

        Args:
            linf: A flow after its first stage.
            stage: Weights and temperature.
            perceptual: Distance of two RGB batches in [0, 1], a scalar: `VggLoss`.
        """
        self.trained = self.linf = linf
        self.stage = stage
        self.perceptual = perceptual

    def to(self, device: torch.device) -> None:
        """Move the network, and the perceptual one."""
        self.linf.to(device)
        if self.perceptual is not None:
            self.perceptual.to(device)

    def __call__(
        self, low: Tensor, high: Tensor, *places: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch of whole crops, or of windows with their places."""
        target = (window_target if places else whole_target)(self.linf, low, high, *places)
        c, size = target.condition, (high.shape[-2], high.shape[-1])
        shape = (len(low), self.linf.width, c.rows, c.cols)
        terms: list[Tensor] = []
        figures: dict[str, float] = {}
        if self.stage.pixel_weight:
            pixel = F.l1_loss(self.linf.decode(low.new_zeros(shape), c, size), target.residual)
            terms.append(self.stage.pixel_weight * pixel)
            figures["l1"] = pixel.item()
        if self.perceptual is not None:
            noise = torch.randn(shape, dtype=low.dtype, device=low.device)
            latent = self.stage.sample_temperature * noise
            output = (self.linf.decode(latent, c, size) + target.base) * 0.5 + 0.5
            distance = self.perceptual(output, high)
            terms.append(self.stage.perceptual_weight * distance)
            figures["perceptual"] = distance.item()
        return torch.stack(terms).sum(), figures


def train_second_stage(stage: SecondStage, loop: Loop, started: Started) -> Path:
    """Train a flow further, and write `model.safetensors` into the run's folder.

    The likelihood has a step of the optimizer on every batch, and the output another one, as
    the authors' code has it.

    Args:
        stage: Losses.
        loop: Settings of the run; its `start` is the flow after the first stage.
        started: Called with the first step; returns the callback for every step.

    Returns:
        The file.

    Raises:
        FlowsrError: As `train_flow`, and if there is no such flow or VGG.
    """
    with opened(loop) as processes:
        if loop.start is None:
            raise UsageError(
                "start must be a flow after its first stage, got none", option="start"
            )
        checkpoint = load_checkpoint(loop.start)
        flow = flow_of(checkpoint.network)
        if not isinstance(flow, LINF):
            raise UsageError("stage 2 is for LINF, not SRFlow", option="stage")
        check_windows(loop, flow)
        torch.manual_seed(loop.settings.seed)
        perceptual = None
        if stage.perceptual_weight:
            assert stage.vgg is not None
            perceptual = vgg_loss(stage.vgg, (), loop)
        crops = cut_crops(loop, flow, processes)
        spec = checkpoint.config["model"]
        weights = {name: value for name, value in asdict(stage).items() if name != "vgg"}
        recipe = {"model": spec, "second_stage": weights}
        objective = Alternating(
            LikelihoodLoss(flow, stage.likelihood_weight), OutputLoss(flow, stage, perceptual)
        )
        held_out = held_out_crops(loop, flow, processes)
        arguments = objective, crops, held_out, loop, processes, recipe, started
        carry_out(*arguments, partial(save_flow, spec))
    return loop.output / FILE
