"""The latent modules restated for deployment: tiles see the whole picture's geometry."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.axis import (
    Axis,
    Number,
    aligned_matrix,
    half_pixel_matrix,
    patch_count,
    quotient,
)
from flowsr_export.fold import fold_norms, pad_inputs, pad_outputs
from flowsr_lp.encoder import DenseBlock
from flowsr_lp.prior import EdsrLatent, Prior, UNet, Up

__all__ = ["PriorGraph"]

LR_STRIDE = 3


class PriorGraph(nn.Module):
    """A latent module on a tile; up-sampling positions are those of the whole picture.

    The published U-Net stretches each level from corner to corner, so that a tile run alone
    would sample elsewhere than the whole picture does. Here the sampling matrices come from
    the whole picture's sizes: a tile with a wide enough halo gives the whole picture's values.
    """

    def __init__(self, prior: Prior, dtype: torch.dtype) -> None:
        """Copy `prior`, its norms folded, to run in `dtype`."""
        super().__init__()
        self.dtype = dtype
        self.prior: Prior = fold_norms(prior).to(dtype)
        self.input_proj = pad_inputs(prior.input_proj).to(dtype)
        first, act, block = prior.lr_proj
        assert isinstance(first, nn.Conv2d)
        assert isinstance(block, DenseBlock)
        self.lr_proj = nn.Sequential(pad_outputs(first), act, pad_inputs(block)).to(dtype)
        self.reduction = prior.reduction

    def forward(self, z: Tensor, x: Tensor, row: Axis, col: Axis) -> Tensor:
        """Predict a latent.

        Args:
            z: Encoded latent of the tile, its channels padded with zeros to whole blocks,
                (B, fold.padded_width(D), rows, cols).
            x: Normalised low-resolution tile, (B, 3, h, w).
            row: Geometry of the rows.
            col: Geometry of the columns.

        Returns:
            Latent, (B, D, rows, cols) float32.
        """
        a = self.input_proj(z.to(self.dtype))
        b = self.lr_proj(x.to(self.dtype))
        feature = torch.cat((a, self._stretched(b, row, col)), dim=1)
        if isinstance(self.prior, EdsrLatent):
            out: Tensor = self.prior.last_conv(self.prior.body(feature)).float()
            return out
        return self._unet(self.prior, feature, row, col)

    def _stretched(self, b: Tensor, row: Axis, col: Axis) -> Tensor:
        """Resize the picture's branch (B, C, ceil(h/3), ceil(w/3)) to the latent's grid."""
        matrices = []
        for axis, count in ((row, b.shape[2]), (col, b.shape[3])):
            index = torch.arange(axis.patches) + axis.first_patch()
            n_in = patch_count(axis.lr, LR_STRIDE)
            origin = quotient(axis.lr_origin, LR_STRIDE)
            n_out = axis.whole_patches()
            matrices.append(half_pixel_matrix(index, n_out, n_in, origin, count).to(self.dtype))
        return matrices[0] @ b @ matrices[1].mT

    def _unet(self, prior: UNet, feature: Tensor, row: Axis, col: Axis) -> Tensor:
        bottom = _larger(self.reduction - row.patches, 0)
        right = _larger(self.reduction - col.patches, 0)
        feature = prior.inc(F.pad(feature, (0, right, 0, bottom)))
        convs = [up.conv for up in prior.up_layers if isinstance(up, Up)]
        skips = []
        for down in prior.down_layers:
            skips.append(feature)
            feature = down(feature)
        for level in reversed(range(len(skips))):
            skip = skips[level]
            rows = self._doubling(row, level, skip.shape[2], feature.shape[2])
            cols = self._doubling(col, level, skip.shape[3], feature.shape[3])
            up = rows @ feature @ cols.mT
            feature = convs[-1 - level](torch.cat((skip, up), dim=1))
        out: Tensor = prior.outc(feature).float()
        return out[:, :, : row.patches, : col.patches]

    def _doubling(self, axis: Axis, level: int, target: int, count: int) -> Tensor:
        """Sampling matrix from level + 1 to level, (target, count)."""
        whole = _larger(axis.whole_patches(), self.reduction)
        first = axis.first_patch()
        index = torch.arange(target) + quotient(first, 1 << level)
        below = 1 << (level + 1)
        matrix = aligned_matrix(index, quotient(whole, below), quotient(first, below), count)
        return matrix.to(self.dtype)


@overload
def _larger(a: int, b: int) -> int: ...
@overload
def _larger(a: Number, b: int) -> Number: ...
def _larger(a: Number, b: int) -> Number:
    if isinstance(a, Tensor):
        return torch.clamp(a, min=b)
    return torch.sym_max(a, b)  # type: ignore[no-any-return, no-untyped-call]
