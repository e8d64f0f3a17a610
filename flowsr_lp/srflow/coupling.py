"""The conditional coupling of SRFlow and its convolutions."""

__all__ = ["ActNorm", "Coupling", "GainedConv", "even_and_odd"]

import torch
from torch import Tensor, nn


class ActNorm(nn.Module):
    """An affine map of each channel; spec/srflow.md "Flow"."""

    def __init__(self, channels: int) -> None:
        """Start as the identity."""
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.logs = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, rows, cols) to (x + bias) · exp(logs), in the type of `x`."""
        return (x + self.bias) * self.logs.to(x.dtype).exp()

    def inverse(self, x: Tensor) -> Tensor:
        """Map (B, C, rows, cols) to x · exp(−logs) − bias, in the type of `x`."""
        return x * (-self.logs.to(x.dtype)).exp() - self.bias


class NormedConv(nn.Conv2d):
    """A convolution that keeps the size, without bias, and an ActNorm."""

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        """Build a kernel of `side` x `side`."""
        super().__init__(in_channels, out_channels, side, padding=side // 2, bias=False)
        self.actnorm = ActNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, rows, cols) to (B, out_channels, rows, cols)."""
        out: Tensor = self.actnorm(super().forward(x))
        return out


class GainedConv(nn.Conv2d):
    """A 3x3 convolution times exp(3 · logs)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Start at zero: an untrained coupling hardly changes its input."""
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.logs = nn.Parameter(torch.zeros(out_channels, 1, 1))
        for tensor in (self.weight, self.bias):
            assert tensor is not None
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, rows, cols) to (B, out_channels, rows, cols)."""
        return super().forward(x) * (3 * self.logs).exp()


class Coupling(nn.Module):
    """Two affine maps: of all channels by the features, of the second half by the first.

    Named "CondAffineSeparatedAndCond" in the released code; spec/srflow.md "Flow".
    """

    def __init__(self, channels: int, features: int, hidden: int) -> None:
        """Build both nets.

        Args:
            channels: Channels C of the flow.
            features: Channels of what it is conditioned on.
            hidden: Width of both nets.
        """
        super().__init__()
        self.own = channels // 2
        self.fAffine = _net(self.own + features, hidden, 2 * (channels - self.own))
        self.fFeatures = _net(features, hidden, 2 * channels)

    def encode(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Map the flow's channels.

        Args:
            x: Input, (B, C, rows, cols).
            u: Features, (B, features, rows, cols).

        Returns:
            Output, (B, C, rows, cols), and log |det| of the map, (B,).
        """
        shift, scale = _shift_and_scale(self.fFeatures(u))
        first, second = self._halves((x + shift) * scale)
        own_shift, own_scale = self._own(first, u)
        second = (second + own_shift) * own_scale
        log_det = scale.log().flatten(1).sum(1) + own_scale.log().flatten(1).sum(1)
        return torch.cat((first, second), dim=1), log_det

    def decode(self, x: Tensor, u: Tensor) -> Tensor:
        """Undo `encode`: (B, C, rows, cols) to the same shape."""
        first, second = self._halves(x)
        own_shift, own_scale = self._own(first, u)
        x = torch.cat((first, second / own_scale - own_shift), dim=1)
        shift, scale = _shift_and_scale(self.fFeatures(u))
        return x / scale - shift

    def _own(self, first: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale of the second half."""
        return _shift_and_scale(self.fAffine(torch.cat((first.to(u.dtype), u), dim=1)))

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : self.own], x[:, self.own :]


def even_and_odd(x: Tensor) -> tuple[Tensor, Tensor]:
    """Take the even and the odd channels of (B, 2C, rows, cols), each (B, C, rows, cols)."""
    return x[:, 0::2], x[:, 1::2]


def _net(in_channels: int, hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        NormedConv(in_channels, hidden, 3),
        nn.ReLU(),
        NormedConv(hidden, hidden, 1),
        nn.ReLU(),
        GainedConv(hidden, out_channels),
    )


def _shift_and_scale(raw: Tensor) -> tuple[Tensor, Tensor]:
    shift, logits = even_and_odd(raw)
    return shift, torch.sigmoid(logits + 2) + 1e-4
