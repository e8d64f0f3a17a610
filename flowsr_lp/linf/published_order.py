"""LINF-LP's inference in the order in which it was published: what a deployed graph saves.

Eager PyTorch, as spec/linf.md describes the released code: encoder and conditioner run for
encode and again for decode, neighbours are read by grid_sample at float32 coordinates, the
flow's maps are inverted by solving for every layer, and 1x1 convolutions run in NCHW.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp import LINF, LinfLP
from flowsr_lp.linf.flow import InvertibleLinear
from flowsr_lp.linf.model import resize

__all__ = ["PublishedOrder"]

NUDGE = 1e-6  # sends coordinates that fall between two pixels up
AREA = 1e-9  # keeps areas from being all zero


@dataclass(frozen=True)
class Grid:
    """Queries of one picture.

    Attributes:
        coord: Centres of the patches (row, column), the picture is [-1, 1], (B, rows, cols, 2).
        cell: Size of an output pixel, a low-resolution one is 2, (B, 2).
    """

    coord: Tensor
    cell: Tensor


class PublishedOrder(nn.Module):
    """Enlarge like `LinfLP` with its learned prior, a border patch at its true coordinates."""

    def __init__(self, network: LinfLP) -> None:
        """Take the parameters of `network`; they are shared, not copied.

        Args:
            network: Model with a learned prior, in evaluation mode.
        """
        super().__init__()
        assert network.prior is not None
        self.linf: LINF = network.linf
        self.prior = network.prior

    def forward(self, rgb: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge a picture.

        Args:
            rgb: RGB in [0, 1], (B, 3, h, w).
            size: Output size (H, W).

        Returns:
            RGB, unclamped, (B, 3, H, W).
        """
        x = (rgb - 0.5) / 0.5
        patch = self.linf.patch_size
        grid = query_grid(x, size, patch)
        base = resize(x, size)
        low = resize(base, (x.shape[-2], x.shape[-1]))
        residual = _unfold(base - resize(low, size), patch)
        encoded = self.encode(residual, x, grid)
        latent = self.prior(encoded, x)
        patches = self.decode(latent, x, grid)
        output = F.fold(patches.flatten(2), _padded(size, patch), patch, stride=patch)
        return (output[..., : size[0], : size[1]] + base) * 0.5 + 0.5

    def encode(self, z: Tensor, x: Tensor, grid: Grid) -> Tensor:
        """Map residual vectors (B, D, rows, cols) to latents of that shape."""
        scale, shift = self.condition(x, grid)
        for i, linear in enumerate(self.linf.imnet.linears):
            z = _map(z, linear) * scale[i] + shift[i]
        return _map(z, self.linf.imnet.last)

    def decode(self, z: Tensor, x: Tensor, grid: Grid) -> Tensor:
        """Map latents (B, D, rows, cols) to residual vectors of that shape."""
        scale, shift = self.condition(x, grid)
        z = _solve(z, self.linf.imnet.last)
        for i in reversed(range(self.linf.flow_layers)):
            z = _solve((z - shift[i]) / scale[i], self.linf.imnet.linears[i])
        return z

    def condition(self, x: Tensor, grid: Grid) -> tuple[list[Tensor], list[Tensor]]:
        """Run the encoder and the conditioner; scale and shift (B, D, rows, cols) a layer."""
        features = self.linf.encoder(x)
        affine = self.linf.layers(self.fourier(features, grid))
        scale, shift = [], []
        for part in affine.chunk(self.linf.flow_layers, dim=1):
            logits, offset = part.chunk(2, dim=1)
            scale.append(torch.sigmoid(logits + 2) + 1e-4)
            shift.append(offset)
        return scale, shift

    def fourier(self, features: Tensor, grid: Grid) -> Tensor:
        """Read four neighbours' Fourier features, (B, 4 · hidden, rows, cols)."""
        height, width = features.shape[-2:]
        pixel = features.new_tensor([height, width])
        coef, freq = self.linf.coef(features), self.linf.freq(features)
        centres = _centres(height, width, features)
        phase = self.linf.phase(grid.cell)[:, :, None, None]
        terms, areas = [], []
        for corner in product((-1, 1), (-1, 1)):
            near = grid.coord + features.new_tensor(corner) / pixel + NUDGE
            near = near.clamp(-1 + NUDGE, 1 - NUDGE)
            offset = ((grid.coord - _read(centres, near).movedim(1, -1)) * pixel).movedim(-1, 1)
            f_row, f_col = _read(freq, near).chunk(2, dim=1)
            angle = torch.pi * (f_row * offset[:, :1] + f_col * offset[:, 1:] + phase)
            waves = torch.cat((torch.cos(angle), torch.sin(angle)), dim=1)
            terms.append(_read(coef, near) * waves)
            areas.append((offset[:, :1] * offset[:, 1:]).abs() + AREA)
        total = torch.stack(areas).sum(0)
        opposite = reversed(areas)
        return torch.cat([t * a / total for t, a in zip(terms, opposite, strict=True)], dim=1)


def query_grid(x: Tensor, size: tuple[int, int], patch: int) -> Grid:
    """Lay out the centres of all patches of an output of `size` (H, W) in float32."""
    axes = [
        (2 * (torch.arange(0, n, patch, device=x.device) + (patch - 1) / 2) + 1) / n - 1
        for n in size
    ]
    coord = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    cell = x.new_tensor([2 * x.shape[-2] / size[0], 2 * x.shape[-1] / size[1]])
    batch = x.shape[0]
    return Grid(coord.expand(batch, *coord.shape), cell.expand(batch, 2))


def _centres(height: int, width: int, like: Tensor) -> Tensor:
    """Coordinates of the low-resolution pixels' centres, (B, 2, h, w)."""
    axes = [
        (2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1
        for n in (height, width)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(like), -1, -1, -1)


def _read(values: Tensor, coord: Tensor) -> Tensor:
    """Read (B, C, h, w) at the pixels nearest to (B, rows, cols, 2) as (row, column)."""
    return F.grid_sample(values, coord.flip(-1), mode="nearest", align_corners=False)


def _map(z: Tensor, linear: nn.Module) -> Tensor:
    """Map (B, D, rows, cols) by W z + b, a 1x1 convolution."""
    assert isinstance(linear, InvertibleLinear)
    return F.conv2d(z, linear._weight[:, :, None, None], linear.bias)


def _solve(z: Tensor, linear: nn.Module) -> Tensor:
    """Solve W y + b = z for y, (B, D, rows, cols)."""
    assert isinstance(linear, InvertibleLinear)
    right = (z - linear.bias[:, None, None]).flatten(2)
    solved: Tensor = torch.linalg.solve(linear._weight, right)
    return solved.reshape(z.shape)


def _padded(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """The size (H, W) that whole patches cover."""
    return -(-size[0] // patch) * patch, -(-size[1] // patch) * patch


def _unfold(residual: Tensor, patch: int) -> Tensor:
    """Cut (B, 3, H, W) into vectors (B, D, rows, cols), zero beyond the picture."""
    height, width = _padded((residual.shape[-2], residual.shape[-1]), patch)
    right, bottom = width - residual.shape[-1], height - residual.shape[-2]
    padded = F.pad(residual, (0, right, 0, bottom))
    vectors = F.unfold(padded, patch, stride=patch)
    return vectors.reshape(len(vectors), -1, height // patch, width // patch)
