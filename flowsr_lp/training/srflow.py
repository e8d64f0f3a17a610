"""Training of SRFlow-LP: the flow by likelihood, then its prior on the frozen flow."""

__all__ = ["SrflowFlowLoss", "SrflowPriorLoss", "fit_norms"]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.srflow.coupling import ActNorm
from flowsr_lp.srflow.model import SRFlow, SrflowLP, interpolate
from flowsr_lp.srflow.prior import SrflowPrior
from flowsr_lp.training.linf import check_prior_weights, check_weights

EIGHT_BITS = 255.0  # steps of eight-bit pictures
TINY = 1e-6  # added to a standard deviation, as in Glow (arXiv 1807.03039, section 3.1)


class SrflowFlowLoss:
    """Negative log-likelihood of the picture, in nats per value (arXiv 2006.14200, eq. 4).

    `pixel_weight` adds L1 between the flow's mode (decode of 0) and the picture; the noise
    that gives a picture a density spans 1/`quant` of the range, published as 1/32.
    """

    def __init__(
        self, srflow: SRFlow, pixel_weight: float = 0.0, quant: float = EIGHT_BITS
    ) -> None:
        """Train `srflow`; call `fit_norms` before the first step of a new network.

        Raises:
            UsageError: If the weight is below 0 or not finite.
        """
        check_weights(pixel_weight)
        self.trained = srflow
        self.srflow = srflow
        self.pixel_weight = pixel_weight
        self.quant = quant

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.srflow.to(device)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch (B, 3, h, w), (B, 3, H, W), RGB in [0, 1], h and w even."""
        u = self.srflow.condition(low)
        likelihood = self.srflow.log_likelihood(_with_density(high, self.quant), u)
        nll = -likelihood.mean() / high[0].numel()
        loss, figures = nll, {"nll": nll.item()}
        if self.pixel_weight:
            zeros = [
                high.new_zeros(len(high), channels, *(n // patch for n in high.shape[2:]))
                for channels, patch in self.srflow.latents
            ]
            pixel = F.l1_loss(self.srflow.decode(zeros, u), high)
            loss = loss + self.pixel_weight * pixel
            figures["l1"] = pixel.item()
        return loss, figures


class SrflowPriorLoss:
    """The published recipe of the latent module at SRFlow's own scale (arXiv 2403.10988).

    Perceptual loss on the frozen flow's output, optional L1 between the latents and those of
    the true picture, and optional L1 between pixels.
    """

    def __init__(
        self,
        network: SrflowLP,
        perceptual: nn.Module,
        perceptual_weight: float = 1.0,
        latent_weight: float = 0.0,
        pixel_weight: float = 0.0,
    ) -> None:
        """Train the prior of `network`; its flow is frozen.

        Args:
            network: A flow with the prior to train.
            perceptual: Distance of two RGB batches in [0, 1], a scalar: `VggLoss`.
            perceptual_weight: Weight of the perceptual loss.
            latent_weight: Weight of the L1 between latents, of which each counts the same.
            pixel_weight: Weight of the L1 between pixels.

        Raises:
            UsageError: If no weight is above 0, or one is below 0 or not finite.
        """
        assert network.prior is not None
        self.weights = check_prior_weights(perceptual_weight, latent_weight, pixel_weight)
        self.trained: SrflowPrior = network.prior
        self.srflow = network.srflow.requires_grad_(False).eval()
        self.perceptual = perceptual

    def to(self, device: torch.device) -> None:
        """Move both networks and the perceptual one."""
        self.trained.to(device)
        self.srflow.to(device)
        self.perceptual.to(device)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch (B, 3, h, w), (B, 3, H, W), RGB in [0, 1], h and w even."""
        perceptual_weight, latent_weight, pixel_weight = self.weights
        with torch.no_grad():
            u = self.srflow.condition(low)
            encoded = self.srflow.encode(interpolate(low, self.srflow.scale), u)
        latents = self.trained(encoded)
        output = self.srflow.decode(latents, u)
        perceptual, pixel = self.perceptual(output, high), F.l1_loss(output, high)
        loss = perceptual_weight * perceptual + pixel_weight * pixel
        figures = {"perceptual": perceptual.item(), "l1": pixel.item()}
        if latent_weight:  # encoding once more costs as much as all the rest of the flow
            latent = self._latent_loss(latents, high, u)
            loss = loss + latent_weight * latent
            figures["latent"] = latent.item()
        return loss, figures

    def _latent_loss(self, latents: list[Tensor], high: Tensor, u: list[Tensor]) -> Tensor:
        with torch.no_grad():
            expected = self.srflow.encode(high, u)
        pairs = zip(latents, expected, strict=True)
        return torch.stack([F.l1_loss(got, want) for got, want in pairs]).mean()


@torch.no_grad()
def fit_norms(srflow: SRFlow, low: Tensor, high: Tensor, *, quant: float = EIGHT_BITS) -> None:
    """Initialize every ActNorm: its output for a batch gets mean 0 and deviation 1.

    The flow's norms and those of the couplings' nets; without it a deep flow starts so far
    from a normal distribution that it does not train.

    Args:
        srflow: A new network; changed.
        low: Low resolution, (B, 3, h, w), RGB in [0, 1], h and w even.
        high: High resolution, (B, 3, scale · h, scale · w).
        quant: Reciprocal of the noise's share of the range.
    """

    def fit(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, ActNorm)
        deviation, mean = torch.std_mean(inputs[0], dim=(0, 2, 3), keepdim=True, correction=0)
        norm.bias.copy_(-mean)
        norm.logs.copy_(-(deviation + TINY).log())

    norms = [module for module in srflow.modules() if isinstance(module, ActNorm)]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    try:
        srflow.encode(_with_density(high, quant), srflow.condition(low))
    finally:
        for hook in hooks:
            hook.remove()


def _with_density(picture: Tensor, quant: float) -> Tensor:
    """Add uniform noise: eight-bit pictures have no density without it."""
    return picture + (torch.rand_like(picture) - 0.5) * (1 / quant)
