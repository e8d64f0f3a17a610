"""SRFlow-LP's learned prior restated for deployment: two U-Nets on tiles of latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.axis import Axis
from flowsr_export.graph.folding import pad_inputs, padded_width
from flowsr_export.graph.linf.prior import UNetGraph
from flowsr_lp import SrflowPrior
from flowsr_lp.srflow.prior import Branch

__all__ = ["SrflowPriorGraph"]

TINY = 1e-8  # added to a standard deviation


class SrflowPriorGraph(nn.Module):
    """Normalize each latent over its channels and predict the one to decode."""

    def __init__(self, prior: SrflowPrior, patches: Sequence[int], dtype: torch.dtype) -> None:
        """Copy `prior`, its norms folded.

        Args:
            prior: The latent module.
            patches: Output pixels per cell and side of each latent, the finest first.
            dtype: Type of its convolutions.
        """
        super().__init__()
        self.patches = tuple(patches)
        self.branches = nn.ModuleList(
            BranchGraph(prior.branch(i), dtype) for i in range(len(self.patches))
        )

    def forward(self, latents: Sequence[Tensor], row: Axis, col: Axis) -> list[Tensor]:
        """Predict latents.

        Args:
            latents: Encoded latents, (B, D, rows, cols) float32, the finest first.
            row: Geometry of the rows, in output pixels.
            col: Geometry of the columns.

        Returns:
            Latents of the same shapes, float32.
        """
        outs = []
        for branch, latent, patch in zip(self.branches, latents, self.patches, strict=True):
            rows, cols = latent.shape[2:]
            y = replace(row, patches=rows, patch=patch)
            x = replace(col, patches=cols, patch=patch)
            outs.append(branch(_normalized(latent), y, x))
        return outs


class BranchGraph(nn.Module):
    """One U-Net with the dense block before it."""

    def __init__(self, branch: Branch, dtype: torch.dtype) -> None:
        """Copy the parts of a branch."""
        super().__init__()
        self.dtype = dtype
        first = branch.input_proj.conv1.in_channels
        self.missing = padded_width(first) - first
        self.input_proj = pad_inputs(branch.input_proj).to(dtype)
        self.unet = UNetGraph(
            branch.inc, branch.down_layers, branch.up_layers, branch.outc, dtype
        )

    def forward(self, z: Tensor, row: Axis, col: Axis) -> Tensor:
        """Map a normalized latent (B, D, rows, cols) to a latent of that shape."""
        padded = F.pad(z, (0, 0, 0, 0, 0, self.missing)).to(self.dtype)
        out: Tensor = self.unet(self.input_proj(padded), row, col)
        return out.float()


def _normalized(z: Tensor) -> Tensor:
    """Bring every position to mean 0 and deviation 1 over its channels."""
    centred = z - z.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (z.shape[1] - 1)
    return centred / (variance.sqrt() + TINY)
