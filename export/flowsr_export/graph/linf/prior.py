"""The latent modules restated for deployment: tiles see the whole picture's geometry."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.axis import (
    Axis,
    Number,
    Taps,
    aligned_taps,
    half_pixel_taps,
    patch_count,
    quotient,
    resized,
)
from flowsr_export.graph.folding import fold_norms, pad_inputs, pad_outputs
from flowsr_lp.linf.encoder import DenseBlock
from flowsr_lp.linf.prior import EdsrLatent, Prior, Up

__all__ = ["PriorGraph", "UNetGraph"]

LR_STRIDE = 3


class UNetGraph(nn.Module):
    """A U-Net on a tile of latents; its doublings sample where the whole picture's do."""

    def __init__(
        self,
        inc: nn.Module,
        down_layers: nn.ModuleList,
        up_layers: nn.ModuleList,
        outc: nn.Module,
        dtype: torch.dtype,
    ) -> None:
        """Copy the parts of a U-Net, their norms folded, to run in `dtype`."""
        super().__init__()
        self.dtype, self.products = dtype, dtype == torch.float32
        self.inc, self.outc = (fold_norms(module).to(dtype) for module in (inc, outc))
        self.downs = nn.ModuleList(fold_norms(down).to(dtype) for down in down_layers)
        convs = [up.conv for up in up_layers if isinstance(up, Up)]
        self.convs = nn.ModuleList(fold_norms(conv).to(dtype) for conv in convs)
        self.reduction = 1 << len(self.downs)

    def forward(self, feature: Tensor, row: Axis, col: Axis) -> Tensor:
        """Map (B, dim, rows, cols) in `dtype` to (B, D, rows, cols) in `dtype`.

        Grids smaller than the deepest level's cells are padded with zeros and cut again.
        """
        rows, cols = feature.shape[2:]
        bottom = _larger(self.reduction - rows, 0)
        right = _larger(self.reduction - cols, 0)
        feature = self.inc(F.pad(feature, (0, right, 0, bottom)))
        skips = []
        for down in self.downs:
            skips.append(feature)
            for side in feature.shape[2:]:  # what PyTorch before 2.13 cannot derive itself
                torch._check(side // 2 >= 1)  # type: ignore[no-untyped-call]
                torch._check(side // 2 != 0)  # type: ignore[no-untyped-call]
            feature = down(feature)
        for level, conv in zip(reversed(range(len(skips))), self.convs, strict=True):
            skip = skips[level]
            height = self._doubling(row, level, skip.shape[2], feature.shape[2])
            width = self._doubling(col, level, skip.shape[3], feature.shape[3])
            up = resized(feature, height, width, products=self.products)
            feature = conv(torch.cat((skip, up), dim=1))
        out: Tensor = self.outc(feature)
        return out[:, :, :rows, :cols]

    def _doubling(self, axis: Axis, level: int, target: int, count: int) -> Taps:
        """Sampling from level + 1, `count` long, to level, `target` long."""
        whole = _larger(axis.whole_patches(), self.reduction)
        first = axis.first_patch()
        index = torch.arange(target, device=axis.device) + quotient(first, 1 << level)
        below = 1 << (level + 1)
        return aligned_taps(index, quotient(whole, below), quotient(first, below), count)


class _Flat(nn.Module):
    """The latent module without levels."""

    def __init__(self, prior: EdsrLatent, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.Sequential(fold_norms(prior.body), pad_outputs(prior.last_conv))
        self.layers = self.layers.to(dtype)

    def forward(self, feature: Tensor, row: Axis, col: Axis) -> Tensor:
        out: Tensor = self.layers(feature)
        return out


class PriorGraph(nn.Module):
    """A latent module on a tile; up-sampling positions are those of the whole picture.

    The published U-Net stretches each level from corner to corner, so that a tile run alone
    would sample elsewhere than the whole picture does. Here the sampling matrices come from
    the whole picture's sizes: a tile with a wide enough halo gives the whole picture's values.
    """

    def __init__(self, prior: Prior, dtype: torch.dtype) -> None:
        """Copy `prior`, its norms folded, to run in `dtype`."""
        super().__init__()
        self.dtype, self.products = dtype, dtype == torch.float32
        self.body = (
            _Flat(prior, dtype)
            if isinstance(prior, EdsrLatent)
            else UNetGraph(
                prior.inc,
                prior.down_layers,
                prior.up_layers,
                pad_outputs(prior.outc.conv),
                dtype,
            )
        )
        self.input_proj = pad_inputs(prior.input_proj).to(dtype)
        first, act, block = prior.lr_proj
        assert isinstance(first, nn.Conv2d)
        assert isinstance(block, DenseBlock)
        self.lr_proj = nn.Sequential(pad_outputs(first), act, pad_inputs(block)).to(dtype)

    def branch_of(self, x: Tensor) -> Tensor:
        """Compute the branch of a normalized tile, (B, C, ceil(h/3), ceil(w/3))."""
        out: Tensor = self.lr_proj(x.to(self.dtype))
        return out

    def forward(
        self, z: Tensor, x: Tensor, row: Axis, col: Axis, branch: Tensor | None = None
    ) -> Tensor:
        """Predict a latent.

        Args:
            z: Encoded latent of the tile, its channels padded with zeros to whole blocks,
                (B, padded_width(D), rows, cols).
            x: Normalized low-resolution tile, (B, 3, h, w).
            row: Geometry of the rows.
            col: Geometry of the columns.
            branch: Result of `branch_of(x)` if it is known.

        Returns:
            Latent in `dtype`, (B, padded_width(D), rows, cols); the added channels are zero.
        """
        a = self.input_proj(z.to(self.dtype))
        b = self.branch_of(x) if branch is None else branch
        feature = torch.cat((a, self._stretched(b, row, col)), dim=1)
        out: Tensor = self.body(feature, row, col)
        return out

    def _stretched(self, b: Tensor, row: Axis, col: Axis) -> Tensor:
        """Resize the picture's branch (B, C, ceil(h/3), ceil(w/3)) to the latent's grid."""
        taps = []
        for axis, count in ((row, b.shape[2]), (col, b.shape[3])):
            index = torch.arange(axis.patches, device=axis.device) + axis.first_patch()
            n_in = patch_count(axis.low_res, LR_STRIDE)
            origin = quotient(axis.lr_origin, LR_STRIDE)
            n_out = axis.whole_patches()
            taps.append(half_pixel_taps(index, n_out, n_in, origin, count))
        return resized(b, *taps, products=self.products)


@overload
def _larger(a: int, b: int) -> int: ...
@overload
def _larger(a: Number, b: int) -> Number: ...
def _larger(a: Number, b: int) -> Number:
    if isinstance(a, Tensor):
        return torch.clamp(a, min=b)
    return torch.sym_max(a, b)  # type: ignore[no-any-return, no-untyped-call]
