"""The flow of SRFlow: squeezes, steps and splits, in both directions."""

__all__ = ["Level", "SrflowFlow", "Split", "Step"]

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.srflow.coupling import ActNorm, Coupling, GainedConv, even_and_odd

PLAIN_STEPS = 2  # at the start of each level, without a coupling


class InvertibleConv(nn.Module):
    """A 1x1 convolution with a square matrix and no bias."""

    def __init__(self, channels: int) -> None:
        """Start from a random rotation, whose inverse is well conditioned."""
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, rows, cols) to W x."""
        return F.conv2d(x, self.weight.to(x.dtype)[:, :, None, None])

    def inverse(self, x: Tensor) -> Tensor:
        """Map (B, C, rows, cols) to W⁻¹ x, the inverse taken in float64."""
        inverse: Tensor = torch.linalg.inv(self.weight.double())
        return F.conv2d(x, inverse.to(x.dtype)[:, :, None, None])

    def log_det(self) -> Tensor:
        """Log |det W| of one position, a scalar."""
        log_det: Tensor = torch.linalg.slogdet(self.weight)[1]
        return log_det


class Step(nn.Module):
    """ActNorm, 1x1 convolution and, but for the first steps of a level, a coupling."""

    def __init__(self, channels: int, affine: Coupling | None = None) -> None:
        """Build a step of `channels` that ends with `affine`."""
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.invconv = InvertibleConv(channels)
        self.affine = affine

    def encode(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, rows, cols), conditioned on `u`; also gives log |det|, (B,)."""
        positions = x.shape[2] * x.shape[3]
        log_det = (self.actnorm.logs.sum() + self.invconv.log_det()) * positions
        x = self.invconv(self.actnorm(x))
        if self.affine is None:
            return x, log_det.expand(len(x))
        x, change = self.affine.encode(x, u)
        return x, log_det + change

    def decode(self, x: Tensor, u: Tensor) -> Tensor:
        """Undo `encode`: (B, C, rows, cols) to the same shape."""
        if self.affine is not None:
            x = self.affine.decode(x, u)
        return self.actnorm.inverse(self.invconv.inverse(x))


class Split(nn.Module):
    """Split off half of the channels as a latent, normalized by a prediction of the rest."""

    def __init__(self, channels: int) -> None:
        """Split `channels`; the first half goes on."""
        super().__init__()
        self.own = channels // 2
        self.conv = GainedConv(self.own, 2 * (channels - self.own))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split off a latent.

        Args:
            x: Input, (B, C, rows, cols).

        Returns:
            The remaining half, (B, C/2, rows, cols), the latent, the same, and log |det|, (B,).
        """
        x, second = x[:, : self.own], x[:, self.own :]
        mean, logs = self._mean_and_logs(x)
        return x, (second - mean) / logs.exp(), -logs.flatten(1).sum(1)

    def decode(self, x: Tensor, eps: Tensor) -> Tensor:
        """Join two halves (B, C/2, rows, cols) to (B, C, rows, cols): undo `encode`."""
        mean, logs = self._mean_and_logs(x)
        return torch.cat((x, mean + logs.exp() * eps), dim=1)

    def _mean_and_logs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return even_and_odd(self.conv(x.to(self.conv.weight.dtype)))


class Level(NamedTuple):
    """Steps at one size.

    Attributes:
        steps: In the order of encoding.
        split: Split after the steps; None if there is none.
    """

    steps: list[Step]
    split: Split | None


class SrflowFlow(nn.Module):
    """L levels of squeeze, steps and split; the numbers of the layers are as released.

    The channels of the flow are float64 on their way, the couplings' nets are not. In float32
    the rounding of some 150 maps comes back amplified: at K = 16 with stand-in weights,
    decode(encode(y)) misses y by 6e-4 of its magnitude. This way it is 1e-4, what float32
    latents leave, and 1e-12 for a float64 picture, whose latents are float64.
    """

    def __init__(self, levels: int, steps: int, features: int, hidden: int = 64) -> None:
        """Build the flow.

        Args:
            levels: Levels, L; the last two have no split after them.
            steps: Steps with a coupling in each level, K.
            features: Channels of what each level is conditioned on.
            hidden: Width of the couplings' nets.
        """
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level in range(levels):
            channels *= 4
            layers.append(nn.PixelUnshuffle(2))
            layers += [Step(channels) for _ in range(PLAIN_STEPS)]
            for _ in range(steps):
                layers.append(Step(channels, Coupling(channels, features, hidden)))
            if level < levels - 2:
                layers.append(Split(channels))
                channels //= 2
        self.layers = nn.ModuleList(layers)

    @property
    def levels(self) -> list[Level]:
        """The layers by level, the finest first."""
        levels: list[Level] = []
        for layer in self.layers:
            if isinstance(layer, nn.PixelUnshuffle):
                levels.append(Level([], None))
            elif isinstance(layer, Step):
                levels[-1].steps.append(layer)
            elif isinstance(layer, Split):
                levels[-1] = levels[-1]._replace(split=layer)
        return levels

    def encode(self, y: Tensor, u: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Map a picture to its latents.

        Args:
            y: Picture, (B, 3, H, W), H and W multiples of 2^L.
            u: Conditions of each level, the finest first, (B, features, …).

        Returns:
            The latents, the finest first, each (B, D, rows, cols), of the type of `y`, and
            log |det|, (B,).
        """
        latents = []
        x, log_det = y.double(), y.new_zeros(len(y))
        for level, features in zip(self.levels, u, strict=True):
            x = F.pixel_unshuffle(x, 2)
            for step in level.steps:
                x, change = step.encode(x, features)
                log_det = log_det + change
            if level.split is not None:
                x, eps, change = level.split.encode(x)
                log_det = log_det + change
                latents.append(eps.to(y.dtype))
        return [*latents, x.to(y.dtype)], log_det

    def decode(self, latents: Sequence[Tensor], u: Sequence[Tensor]) -> Tensor:
        """Map latents to the picture (B, 3, H, W) that they stand for: undo `encode`."""
        *waiting, last = latents
        x = last.double()
        for level, features in reversed(list(zip(self.levels, u, strict=True))):
            if level.split is not None:
                x = level.split.decode(x, waiting.pop())
            for step in reversed(level.steps):
                x = step.decode(x, features)
            x = F.pixel_shuffle(x, 2)
        return x.to(last.dtype)
