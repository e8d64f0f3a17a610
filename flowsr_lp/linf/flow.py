"""The conditional flow on patch vectors: encode, decode and log-likelihood."""

__all__ = ["Flow", "InvertibleLinear", "scale_and_shift"]

import math

import torch
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


class InvertibleLinear(nn.Module):
    """A square linear map with a bias; named as in released checkpoints."""

    def __init__(self, width: int) -> None:
        """Start from a random rotation, whose inverse is well conditioned."""
        super().__init__()
        self._weight = nn.Parameter(torch.linalg.qr(torch.randn(width, width))[0])
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, z: Tensor) -> Tensor:
        """Map (..., D) to W z + b, (..., D)."""
        return z @ self._weight.mT + self.bias

    def inverse(self, z: Tensor) -> Tensor:
        """Map (..., D) to W⁻¹ (z - b), the inverse taken in float64."""
        inverse: Tensor = torch.linalg.inv(self._weight.double())
        return (z - self.bias) @ inverse.to(z.dtype).mT

    def log_det(self) -> Tensor:
        """Log |det W|, a scalar."""
        log_det: Tensor = torch.linalg.slogdet(self._weight)[1]
        return log_det


class Flow(nn.Module):
    """L affine layers, each after an invertible linear map; spec/linf.md, stage 5."""

    def __init__(self, width: int, layers: int) -> None:
        """Build `layers` maps and the last one for vectors of `width` D."""
        super().__init__()
        self.linears = nn.ModuleList(InvertibleLinear(width) for _ in range(layers))
        self.last = InvertibleLinear(width)

    def encode(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Map residual vectors to latents.

        Args:
            x: Residual patches, (..., D).
            scale: Positive factors, (..., L, D).
            shift: Shifts, (..., L, D).

        Returns:
            Latents, (..., D).
        """
        # unbind, not indexing: its backward is one stack instead of a zero fill per layer.
        for linear, a, b in zip(self.linears, scale.unbind(-2), shift.unbind(-2), strict=True):
            x = linear(x) * a + b
        out: Tensor = self.last(x)
        return out

    def decode(self, z: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Map latents (..., D) to residual vectors (..., D): the exact inverse of `encode`."""
        z = _linear(self.last).inverse(z)
        steps = zip(self.linears, scale.unbind(-2), shift.unbind(-2), strict=True)
        for linear, a, b in reversed(list(steps)):
            z = _linear(linear).inverse((z - b) / a)
        return z

    def log_likelihood(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Log density of residual vectors under a standard normal base.

        Args:
            x: Residual patches, (..., D).
            scale: Positive factors, (..., L, D).
            shift: Shifts, (..., L, D).

        Returns:
            Log-likelihood in nats, (...).
        """
        z = self.encode(x, scale, shift)
        base = -0.5 * (z.square() + LOG_2PI).sum(-1)
        return base + self.log_det(scale)

    def log_det(self, scale: Tensor) -> Tensor:
        """Log |d encode / d x| of each vector, (...), from the factors (..., L, D)."""
        maps = [_linear(m).log_det() for m in (*self.linears, self.last)]
        return torch.stack(maps).sum() + scale.log().sum((-1, -2))


def scale_and_shift(conditioning: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Split the conditioner's output; spec/linf.md, stage 4.

    Args:
        conditioning: (..., L·2D), per layer first D logits, then D shifts.
        layers: L.

    Returns:
        Factors `sigmoid(s + 2) + 1e-4` and shifts, each (..., L, D).
    """
    shape = (*conditioning.shape[:-1], layers, 2, -1)
    logits, shift = conditioning.reshape(shape).unbind(-2)
    return torch.sigmoid(logits + 2) + 1e-4, shift


def _linear(module: nn.Module) -> InvertibleLinear:
    assert isinstance(module, InvertibleLinear)
    return module
