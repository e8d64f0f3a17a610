"""Losses of LINF: the flow by likelihood, then the learned prior on the frozen flow."""

__all__ = [
    "FlowLoss",
    "PriorLoss",
    "Target",
    "check_prior_weights",
    "check_weights",
    "density_noise",
    "whole_target",
]

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.linf.model import LINF, Conditioning, LinfLP, low_frequency_residual, resize
from flowsr_lp.linf.prior import Prior
from flowsr_lp.training.penalties import Penalties
from flowsr_runtime.errors import UsageError

NO_PENALTIES = Penalties()


@dataclass(frozen=True)
class Target:
    """The residuals that a batch asks the flow for.

    Attributes:
        base: Interpolated pictures, normalized, (B, 3, H, W).
        residual: Truth minus base, (B, 3, H, W).
        condition: Condition of the flow.
    """

    base: Tensor
    residual: Tensor
    condition: Conditioning


def whole_target(linf: LINF, low: Tensor, high: Tensor) -> Target:
    """Return the target of pictures (B, 3, h, w) and the truth (B, 3, H, W) in [0, 1]."""
    size, x = (high.shape[-2], high.shape[-1]), (low - 0.5) / 0.5
    base = resize(x, size)
    return Target(base, (high - 0.5) / 0.5 - base, linf.condition(x, size, "extend"))


class FlowLoss:
    """Negative log-likelihood of the residual, in nats per value (arXiv 2303.05156, eq. 5).

    `pixel_weight` adds L1 between the flow's mode (decode of 0) and the residual; `penalties`
    apply to the mode too.
    """

    def __init__(
        self, linf: LINF, pixel_weight: float = 0.0, penalties: Penalties = NO_PENALTIES
    ) -> None:
        """Train `linf`.

        Raises:
            UsageError: If the weight is below 0 or not finite.
        """
        check_weights(pixel_weight)
        self.trained = linf
        self.linf = linf
        self.pixel_weight = pixel_weight
        self.penalties = penalties

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.linf.to(device)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch."""
        size = (high.shape[-2], high.shape[-1])
        x = (low - 0.5) / 0.5
        base = resize(x, size)
        residual = (high - 0.5) / 0.5 - base
        noisy = residual + density_noise(residual)
        features = self.linf.features(x)
        c = self.linf.condition(x, size, "extend", features=features)
        nll = -self.linf.log_likelihood(noisy, c).mean() / self.linf.width
        loss, figures = nll, {"nll": nll.item()}
        if not self.pixel_weight and self.penalties == NO_PENALTIES:
            return loss, figures
        mode = self._mode(x, c, size)
        if self.pixel_weight:
            pixel = F.l1_loss(mode, residual)
            loss = loss + self.pixel_weight * pixel
            figures["l1"] = pixel.item()
        shifted = None
        if self.penalties.shift:
            moved = self.linf.condition(x, size, "extend", _random_origin(self.linf), features)
            shifted = (self._mode(x, moved, size) + base) * 0.5 + 0.5
        output = (mode + base) * 0.5 + 0.5
        terms = self.penalties(
            output, base * 0.5 + 0.5, low, high, self.linf.patch_size, c.scale, shifted
        )
        figures.update({name: term.item() for name, term in terms.items()})
        return loss + sum(terms.values()), figures

    def _mode(self, x: Tensor, c: Conditioning, size: tuple[int, int]) -> Tensor:
        """Decode the zero latent to a residual, (B, 3, H, W)."""
        zero = x.new_zeros(x.shape[0], self.linf.width, c.rows, c.cols)
        return self.linf.decode(zero, c, size)


class PriorLoss:
    """The published recipe of the latent module; spec/linf.md "Training of LP".

    Perceptual loss on the frozen flow's output, optional L1 between the latent and that of
    the true residual, and optional L1 between pixels. With a weight of the likelihood the
    flow is trained too, which the published recipe does not do.
    """

    def __init__(
        self,
        network: LinfLP,
        perceptual: nn.Module,
        perceptual_weight: float = 1.0,
        latent_weight: float = 0.0,
        pixel_weight: float = 0.0,
        penalties: Penalties = NO_PENALTIES,
        likelihood_weight: float = 0.0,
    ) -> None:
        """Train the prior of `network`, and its flow with `likelihood_weight`.

        Args:
            network: A flow with the prior to train.
            perceptual: Distance of two RGB batches in [0, 1], a scalar: `VggLoss`.
            perceptual_weight: Weight of the perceptual loss.
            latent_weight: Weight of the L1 between latents.
            pixel_weight: Weight of the L1 between pixels.
            penalties: Weights of the penalties on artifacts.
            likelihood_weight: Weight of the flow's negative log-likelihood in nats per value;
                0 freezes the flow.

        Raises:
            UsageError: If no weight is above 0, or one is below 0 or not finite.
        """
        assert network.prior is not None
        self.weights = check_prior_weights(perceptual_weight, latent_weight, pixel_weight)
        check_weights(likelihood_weight)
        self.prior: Prior = network.prior
        self.linf = network.linf.requires_grad_(likelihood_weight > 0).eval()
        self.likelihood_weight = likelihood_weight
        self.trained: nn.Module = network if likelihood_weight else network.prior
        self.perceptual = perceptual
        self.penalties = penalties

    def to(self, device: torch.device) -> None:
        """Move both networks and the perceptual one."""
        self.prior.to(device)
        self.linf.to(device)
        self.perceptual.to(device)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch."""
        size = (high.shape[-2], high.shape[-1])
        x, y = (low - 0.5) / 0.5, (high - 0.5) / 0.5
        base = resize(x, size)
        low_frequencies = low_frequency_residual(x, size)
        with torch.set_grad_enabled(bool(self.likelihood_weight) and torch.is_grad_enabled()):
            features = self.linf.features(x)
            c = self.linf.condition(x, size, "extend", features=features)
            encoded = self.linf.encode(low_frequencies, c)
            target = self.linf.encode(y - base, c)
        latent = self.prior(encoded, x)
        output = (self.linf.decode(latent, c, size) + base) * 0.5 + 0.5
        terms = (
            self.perceptual(output, high),
            F.l1_loss(latent, target),
            F.l1_loss(output, high),
        )
        loss = torch.stack([w * t for w, t in zip(self.weights, terms, strict=True) if w]).sum()
        figures = {"perceptual": terms[0], "latent": terms[1], "l1": terms[2]}
        if self.likelihood_weight:
            noisy = y - base + density_noise(y)
            nll = -self.linf.log_likelihood(noisy, c).mean() / self.linf.width
            loss, figures["nll"] = loss + self.likelihood_weight * nll, nll
        shifted = None
        if self.penalties.shift:
            moved = self.linf.condition(x, size, "extend", _random_origin(self.linf), features)
            encoded = self.linf.encode(low_frequencies, moved)
            latent = self.prior(encoded, x)
            shifted = (self.linf.decode(latent, moved, size) + base) * 0.5 + 0.5
        extra = self.penalties(
            output, base * 0.5 + 0.5, low, high, self.linf.patch_size, c.scale, shifted
        )
        figures.update(extra)
        total = loss + sum(extra.values())
        return total, {name: value.item() for name, value in figures.items()}


def density_noise(picture: Tensor) -> Tensor:
    """Draw uniform noise of one step: eight-bit pictures have no density without it.

    Args:
        picture: Normalized picture or residual, in units of half the range.
    """
    return (torch.rand_like(picture) - 0.5) * (2 / 255)


def check_weights(*weights: float) -> None:
    """Refuse weights of a loss that make no sense.

    Raises:
        UsageError: If one is below 0 or not finite.
    """
    for weight in weights:
        if not 0 <= weight < math.inf:
            raise UsageError(f"weights must be finite and at least 0, got {weight}")


def check_prior_weights(
    perceptual: float, latent: float, pixel: float
) -> tuple[float, float, float]:
    """Return the weights of a prior's loss.

    Raises:
        UsageError: If none is above 0, or one is below 0 or not finite.
    """
    check_weights(perceptual, latent, pixel)
    if max(perceptual, latent, pixel) <= 0:
        raise UsageError("one of the loss's weights must be above 0")
    return perceptual, latent, pixel


def _random_origin(linf: LINF) -> tuple[int, int]:
    """Draw a shift of the patch grid that is not zero, from PyTorch's generator."""
    index = int(torch.randint(1, linf.patch_size**2, ()))
    return index // linf.patch_size, index % linf.patch_size
