"""SRFlow-LP's inference in the order in which it was published: what a deployed graph saves.

Eager PyTorch, as spec/srflow.md describes the released code: the encoder and every net of the
couplings run for encode and again for decode, all in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp import SrflowLP
from flowsr_lp.srflow.model import interpolate

__all__ = ["PublishedSrflow"]


class PublishedSrflow(nn.Module):
    """Enlarge like `SrflowLP` with its learned prior, pictures of even sides."""

    def __init__(self, network: SrflowLP) -> None:
        """Take the parameters of `network`; they are shared, not copied.

        Args:
            network: Model with a learned prior, in evaluation mode.
        """
        super().__init__()
        assert network.prior is not None
        self.srflow, self.prior = network.srflow, network.prior

    def forward(self, rgb: Tensor) -> Tensor:
        """Enlarge a picture.

        Args:
            rgb: RGB in [0, 1], (B, 3, h, w), h and w even.

        Returns:
            RGB, unclamped, (B, 3, scale · h, scale · w).
        """
        enlarged = interpolate(rgb, self.srflow.scale)
        encoded = self.encode(enlarged, self.srflow.condition(rgb))
        return self.decode(self.prior(encoded), self.srflow.condition(rgb))

    def encode(self, x: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Map a picture (B, 3, H, W) to its latents, the finest first."""
        latents = []
        for level, u in zip(self.srflow.flowUpsamplerNet.levels, features, strict=True):
            x = F.pixel_unshuffle(x, 2)
            for step in level.steps:
                x, _ = step.encode(x, u)
            if level.split is not None:
                x, eps, _ = level.split.encode(x)
                latents.append(eps)
        return [*latents, x]

    def decode(self, latents: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
        """Map latents to the picture (B, 3, H, W) that they stand for."""
        *waiting, x = latents
        levels = zip(self.srflow.flowUpsamplerNet.levels, features, strict=True)
        for level, u in reversed(list(levels)):
            if level.split is not None:
                x = level.split.decode(x, waiting.pop())
            for step in reversed(level.steps):
                x = step.decode(x, u)
            x = F.pixel_shuffle(x, 2)
        return x
