"""The latents of LINF-LP as graphs: a picture to its latent, and latents of any origin back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.linf.network import LinfGraph, read_size
from flowsr_lp.linf.model import LINF

__all__ = ["LinfEncodeGraph", "LinfSampleGraph"]

LOG_2PI = math.log(2 * math.pi)


class LinfSampleGraph(nn.Module):
    """Decode a · z_LP + z on a tile: the prior's latent, one from outside, or both."""

    def __init__(self, linf: LinfGraph) -> None:
        """Wrap `linf`, which has a prior."""
        super().__init__()
        self.linf = linf

    def forward(
        self, input: Tensor, geometry: Tensor, latent: Tensor, prior_weight: Tensor
    ) -> Tensor:
        """Enlarge a tile as `LinfGraph.forward`.

        Args:
            input: As for `LinfGraph.forward`.
            geometry: As for `LinfGraph.forward`.
            latent: Latent z, (B, D, rows, cols).
            prior_weight: Factor a of the prior's latent, (1,).
        """
        linf = self.linf
        out_h, out_w = read_size(geometry[8]), read_size(geometry[9])
        row, col = linf.axes(input, geometry, latent.shape[2:])
        x = input * 2 - 1
        scale, shift = linf.condition(x, row, col)
        predicted = linf.predicted(x, row, col, scale, shift)
        # The prior's latent has more channels, which are zero.
        added = predicted.shape[1] - linf.width
        mixed = predicted * prior_weight + F.pad(latent, (0, 0, 0, 0, 0, added))
        folded = linf.decoded(mixed, x, row, col, scale, shift)
        return folded[:, :, :out_h, :out_w]


class LinfEncodeGraph(nn.Module):
    """Encode a high-resolution picture, given the low-resolution one."""

    log_det: Tensor

    def __init__(self, linf: LinfGraph, network: LINF) -> None:
        """Wrap `linf`, in float32, which was built from `network`."""
        super().__init__()
        self.linf = linf
        maps = (*network.imnet.linears, network.imnet.last)
        weights = [part.get_parameter("_weight").detach().double() for part in maps]
        total = torch.stack([torch.linalg.slogdet(weight)[1] for weight in weights]).sum()
        self.register_buffer("log_det", total.float())

    def forward(self, input: Tensor, geometry: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a picture.

        Args:
            input: As for `LinfGraph.forward`.
            geometry: As for `LinfGraph.forward`.
            target: Picture in the window, RGB in [0, 1], (B, 3, out_h, out_w).

        Returns:
            Latent (B, D, rows, cols), and the log density of each patch's residual in nats,
            (B, 1, rows, cols).
        """
        linf, p = self.linf, self.linf.patch
        row, col = linf.axes(input, geometry)
        x = input * 2 - 1
        below = row.patches * p - target.shape[2], col.patches * p - target.shape[3]
        filled = F.pad(target * 2 - 1, (0, below[1], 0, below[0]))
        residual = F.pixel_unshuffle(filled, p) - linf.cut(x, row, col)
        scale, shift = linf.condition(x, row, col)
        rows = residual.permute(0, 2, 3, 1).flatten(0, 2)
        z = linf.encode(rows, scale, shift)[:, : linf.width]
        density = -0.5 * (z.square() + LOG_2PI).sum(-1, keepdim=True) + self.log_det
        for factor in scale:
            density = density + factor.log().sum(-1, keepdim=True)
        latent = z.reshape(-1, row.patches, col.patches, linf.width).permute(0, 3, 1, 2)
        return latent, density.reshape(-1, 1, row.patches, col.patches)
