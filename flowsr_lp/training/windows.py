"""Training as published: one scale per picture, losses on windows of the output."""

__all__ = ["WindowCrops", "WindowFlowLoss", "WindowPriorLoss", "window_target"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flowsr_lp.linf.model import LINF, Conditioning, low_frequency_residual, resize
from flowsr_lp.training.crops import Arrays, Crops, shrunk
from flowsr_lp.training.linf import FlowLoss, PriorLoss, Target, density_noise

Places = Sequence[Sequence[int]]
"""Of each picture: side of the whole output, top and left of the window, in pixels."""


class WindowCrops(Crops):
    """Crops at a scale of their own, and a window of each high-resolution crop.

    A window has the side of the low-resolution crop and begins where a patch begins.
    """

    def __init__(self, *args: Any, patch: int, **settings: Any) -> None:
        """Take the arguments of `Crops`, and the side of a patch."""
        super().__init__(*args, **settings)
        self.patch = patch

    def arrays_at(self, step: int) -> Arrays:
        """Cut the batch of one step.

        Returns:
            Low resolution (B, n, n, 3) and windows (B, n, n, 3), RGB uint8; the place of each
            window, (B, 3) int64: side of the whole output, top, left.
        """
        rng = self._generator(step)
        low, high, places = [], [], []
        for _ in range(self.batch):
            side = round(self.lr_size * rng.uniform(*self.scales))
            crop = self._crop(side, rng)
            last = (side - self.lr_size) // self.patch
            top, left = (int(n) * self.patch for n in rng.integers(last + 1, size=2))
            low.append(shrunk(crop, self.lr_size))
            high.append(crop[top : top + self.lr_size, left : left + self.lr_size])
            places.append((side, top, left))
        return np.stack(low), np.stack(high), np.array(places, np.int64)


def window_target(linf: LINF, low: Tensor, high: Tensor, places: Tensor) -> Target:
    """Return the target of windows.

    Args:
        linf: The flow.
        low: Low resolution, (B, 3, n, n), RGB in [0, 1].
        high: Windows of the truth, (B, 3, n, n), RGB in [0, 1].
        places: Place of each window, (B, 3): side of the whole output, top, left.
    """
    x, windows = (low - 0.5) / 0.5, places.tolist()
    base = _bases(x, windows)
    return Target(base, (high - 0.5) / 0.5 - base, _condition(linf, x, windows))


class WindowFlowLoss(FlowLoss):
    """Negative log-likelihood of the windows' residual, in nats per value."""

    def __call__(self, low: Tensor, high: Tensor, *places: Tensor) -> tuple[Tensor, Any]:
        """Loss of a batch (B, 3, n, n), windows (B, 3, n, n) and places (B, 3)."""
        target = window_target(self.linf, low, high, *places)
        residual, c = target.residual, target.condition
        noisy = residual + density_noise(residual)
        nll = -self.linf.log_likelihood(noisy, c).mean() / self.linf.width
        loss, figures = nll, {"nll": nll.item()}
        if self.pixel_weight:
            zero = low.new_zeros(len(low), self.linf.width, c.rows, c.cols)
            pixel = F.l1_loss(
                self.linf.decode(zero, c, (high.shape[-2], high.shape[-1])), residual
            )
            loss, figures["l1"] = loss + self.pixel_weight * pixel, pixel.item()
        return loss, figures


class WindowPriorLoss(PriorLoss):
    """The loss of the latent module on windows that its inputs are registered with."""

    def __call__(self, low: Tensor, high: Tensor, *places: Tensor) -> tuple[Tensor, Any]:
        """Loss of a batch (B, 3, n, n), windows (B, 3, n, n) and places (B, 3)."""
        x, windows = (low - 0.5) / 0.5, places[0].tolist()
        size = (high.shape[-2], high.shape[-1])
        base = _bases(x, windows)
        with torch.no_grad():
            c = _condition(self.linf, x, windows)
            encoded = self.linf.encode(_low_frequencies(x, windows), c)
            target = self.linf.encode((high - 0.5) / 0.5 - base, c)
        latent = self._latent(encoded, x, windows)
        output = (self.linf.decode(latent, c, size) + base) * 0.5 + 0.5
        terms = {
            "perceptual": self.perceptual(output, high),
            "latent": F.l1_loss(latent, target),
            "l1": F.l1_loss(output, high),
        }
        pairs = zip(self.weights, terms.values(), strict=True)
        loss = torch.stack([weight * term for weight, term in pairs if weight]).sum()
        return loss, {name: term.item() for name, term in terms.items()}

    def _latent(self, encoded: Tensor, x: Tensor, windows: Places) -> Tensor:
        """Predict the windows' latent; the picture's features are cut where the window is."""
        patch, rows = self.linf.patch_size, encoded.shape[-1]
        features = self.prior.lr_proj(x)
        cut = []
        for i, (side, top, left) in enumerate(windows):
            whole = -(-side // patch)
            grid = resize(features[i : i + 1], (whole, whole))
            row, col = top // patch, left // patch
            cut.append(grid[..., row : row + rows, col : col + rows])
        return self.prior.predict(
            torch.cat((self.prior.input_proj(encoded), torch.cat(cut)), 1)
        )


def _condition(linf: LINF, x: Tensor, windows: Places) -> Conditioning:
    """Compute the flow's condition for the patches of each window alone."""
    maps, patches = linf.features(x), x.shape[-1] // linf.patch_size
    parts = [
        linf.condition(
            x[i : i + 1],
            (side, side),
            "extend",
            (-top, -left),
            (maps[0][i : i + 1], maps[1][i : i + 1]),
            (patches, patches),
        )
        for i, (side, top, left) in enumerate(windows)
    ]
    scale, shift = (torch.cat([getattr(c, name) for c in parts]) for name in ("scale", "shift"))
    return Conditioning(patches, patches, scale, shift)


def _bases(x: Tensor, windows: Places) -> Tensor:
    """Interpolate each picture to its size and cut its window, (B, 3, n, n)."""
    wholes = [resize(x[i : i + 1], (place[0],) * 2) for i, place in enumerate(windows)]
    return _cut(wholes, windows, x.shape[-1])


def _low_frequencies(x: Tensor, windows: Places) -> Tensor:
    wholes = [
        low_frequency_residual(x[i : i + 1], (place[0],) * 2) for i, place in enumerate(windows)
    ]
    return _cut(wholes, windows, x.shape[-1])


def _cut(wholes: Sequence[Tensor], windows: Places, side: int) -> Tensor:
    pairs = zip(wholes, windows, strict=True)
    return torch.cat(
        [whole[..., top : top + side, left : left + side] for whole, (_, top, left) in pairs]
    )
