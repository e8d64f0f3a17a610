"""Training: the flow by likelihood, then the learned prior on the frozen flow."""

__all__ = ["FlowLoss", "PriorLoss", "Settings", "train"]

import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.crops import Crops
from flowsr_lp.linf import LINF, LinfLP, low_frequency_residual, resize
from flowsr_lp.perceptual import VggLoss
from flowsr_lp.prior import Prior
from flowsr_runtime.errors import CheckpointError, FlowsrError

logger = logging.getLogger(__name__)

WARM_UP_STEPS = 100
GRADIENT_NORM = 1.0
Report = Callable[[int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Settings:
    """How long and how to train.

    Attributes:
        steps: Optimiser steps in all.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine to zero.
        ema_decay: Decay per step of the averaged weights that are kept; 0 keeps the last.
        save_every: Steps between checkpoints.
        seed: Seed of the noise; the crops have their own.
    """

    steps: int = 10_000
    learning_rate: float = 4e-4
    ema_decay: float = 0.999
    save_every: int = 200
    seed: int = 0


class Objective(Protocol):
    """A loss on one batch, with the figures to report."""

    trained: nn.Module

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch (B, 3, h, w), (B, 3, H, W), RGB in [0, 1]."""
        ...


class FlowLoss:
    """Negative log-likelihood of the residual, in nats per value (arXiv 2303.05156, eq. 5).

    `pixel_weight` adds L1 between the flow's mode (decode of 0) and the residual, as LINF's
    second stage does.
    """

    def __init__(self, linf: LINF, pixel_weight: float = 0.0) -> None:
        """Train `linf`."""
        self.trained = linf
        self.linf = linf
        self.pixel_weight = pixel_weight

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch."""
        size = (high.shape[-2], high.shape[-1])
        x = (low - 0.5) / 0.5
        residual = (high - 0.5) / 0.5 - resize(x, size)
        # Eight-bit pictures have no density: uniform noise of one step gives them one.
        noisy = residual + (torch.rand_like(residual) - 0.5) * (2 / 255)
        c = self.linf.condition(x, size, "extend")
        nll = -self.linf.log_likelihood(noisy, c).mean() / self.linf.width
        loss, figures = nll, {"nll": nll.item()}
        if self.pixel_weight:
            zero = x.new_zeros(x.shape[0], self.linf.width, c.rows, c.cols)
            pixel = F.l1_loss(self.linf.decode(zero, c, size), residual)
            loss = loss + self.pixel_weight * pixel
            figures["l1"] = pixel.item()
        return loss, figures


class PriorLoss:
    """The published recipe of the latent module; spec/linf.md "Training of LP".

    Perceptual loss on the frozen flow's output, optional L1 between the latent and that of
    the true residual, and optional L1 between pixels.
    """

    def __init__(
        self,
        network: LinfLP,
        perceptual: VggLoss,
        perceptual_weight: float = 1.0,
        latent_weight: float = 0.0,
        pixel_weight: float = 0.0,
    ) -> None:
        """Train the prior of `network`; its flow is frozen."""
        assert network.prior is not None
        self.trained: Prior = network.prior
        self.linf = network.linf.requires_grad_(False).eval()
        self.perceptual = perceptual
        self.weights = (perceptual_weight, latent_weight, pixel_weight)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch."""
        size = (high.shape[-2], high.shape[-1])
        x, y = (low - 0.5) / 0.5, (high - 0.5) / 0.5
        base = resize(x, size)
        with torch.no_grad():
            c = self.linf.condition(x, size, "extend")
            encoded = self.linf.encode(low_frequency_residual(x, size), c)
            wanted = self.linf.encode(y - base, c)
        latent = self.trained(encoded, x)
        output = (self.linf.decode(latent, c, size) + base) * 0.5 + 0.5
        terms = (
            self.perceptual(output, high),
            F.l1_loss(latent, wanted),
            F.l1_loss(output, high),
        )
        loss = torch.stack([w * t for w, t in zip(self.weights, terms, strict=True) if w]).sum()
        figures = {"perceptual": terms[0], "latent": terms[1], "l1": terms[2]}
        return loss, {name: value.item() for name, value in figures.items()}


def train(
    objective: Objective,
    crops: Crops,
    settings: Settings,
    folder: Path,
    report: Report,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Train until `settings.steps`, going on from what `folder` holds.

    Args:
        objective: The loss and the module it trains.
        crops: Where batches come from.
        settings: Length, rate, seed.
        folder: Gets `last.pt` (for resuming) and `log.jsonl` (one line a report).
        report: Called as `report(step, steps, figures)` after every step.
        device: Where to train; the CPU when None.

    Returns:
        The trained module's state dict, averaged if `ema_decay` is set, on the CPU.

    Raises:
        CheckpointError: If `folder` holds a run with other settings.
        FlowsrError: If the loss stops being finite.
    """
    device = device or torch.device("cpu")
    module = objective.trained.to(device).train()
    average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    optimizer = torch.optim.Adam(module.parameters(), lr=settings.learning_rate)
    folder.mkdir(parents=True, exist_ok=True)
    start = _resume(folder, settings, module, optimizer, average, device)
    torch.manual_seed(settings.seed + start)
    for step in range(start, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step, settings.steps)
        low, high = crops.batch_at(step)
        loss, figures = objective(low.to(device), high.to(device))
        if not math.isfinite(loss.item()):
            raise FlowsrError(f"loss is not finite at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), GRADIENT_NORM)
        optimizer.step()
        _average(average, module, min(settings.ema_decay, (1 + step) / (10 + step)))
        report(step + 1, settings.steps, figures)
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            _save(folder, settings, step + 1, module, optimizer, average)
            _log(folder, step + 1, figures)
    return {name: tensor.cpu() for name, tensor in average.items()}


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP_STEPS)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


def _save(
    folder: Path,
    settings: Settings,
    step: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> None:
    state = {
        "settings": asdict(settings),
        "step": step,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average,
    }
    temporary = folder / "last.pt.part"
    torch.save(state, temporary)
    os.replace(temporary, folder / "last.pt")


def _resume(
    folder: Path,
    settings: Settings,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    device: torch.device,
) -> int:
    path = folder / "last.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    if state["settings"] != asdict(settings):
        raise CheckpointError(
            f"{path} belongs to a run with other settings; use another folder"
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    average.update(state["average"])
    logger.info("resumed %s at step %d", path, state["step"])
    return int(state["step"])


def _log(folder: Path, step: int, figures: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, **figures}) + "\n")
