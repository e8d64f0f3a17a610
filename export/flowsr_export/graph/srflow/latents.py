"""The latents of SRFlow-LP as graphs: pictures to latents, and latents of any origin back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.srflow.folding import levels_of
from flowsr_export.graph.srflow.level import LevelGraph
from flowsr_export.graph.srflow.network import SrflowGraph, axes_of
from flowsr_lp import SRFlow

__all__ = ["SrflowEncodeGraph", "SrflowSampleGraph"]

LOG_2PI = math.log(2 * math.pi)


class SrflowSampleGraph(nn.Module):
    """Decode a · z_LP + z on a tile: the prior's latents, some from outside, or both."""

    def __init__(self, srflow: SrflowGraph) -> None:
        """Wrap a graph with a prior."""
        super().__init__()
        self.srflow = srflow

    def forward(
        self,
        input: Tensor,
        geometry: Tensor,
        prior_weight: Tensor,
        latent0: Tensor,
        latent1: Tensor,
        latent2: Tensor | None = None,
    ) -> Tensor:
        """Enlarge a tile as `SrflowGraph.forward`.

        Args:
            input: As for `SrflowGraph.forward`.
            geometry: As for `SrflowGraph.forward`.
            prior_weight: Factor a of the prior's latents, (1,).
            latent0: Latent z of the finest level, (B, D, rows, columns).
            latent1: Latent of the next level that has one.
            latent2: Latent of the next, for networks with three.
        """
        given = [latent0, latent1] + ([] if latent2 is None else [latent2])
        conditions = self.srflow.conditions(input)
        predicted = self.srflow.predicted(input, conditions, *axes_of(input, geometry))
        mixed = [prior_weight * z + n for z, n in zip(predicted, given, strict=True)]
        return self.srflow.decode(mixed, conditions)


class SrflowEncodeGraph(nn.Module):
    """Encode a high-resolution picture, given the low-resolution one."""

    def __init__(self, srflow: SrflowGraph, network: SRFlow) -> None:
        """Wrap `srflow`, in float32, which was built from `network`."""
        super().__init__()
        self.srflow = srflow
        self.log_dets = [
            sum(
                float(torch.linalg.slogdet(c.forward[0].flatten(1))[1]) for c in level.couplings
            )
            for level in levels_of(network)
        ]

    def forward(self, input: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """Encode a picture.

        Args:
            input: RGB in [0, 1], (B, 3, h, w), even sides.
            target: RGB in [0, 1], (B, 3, scale · h, scale · w).

        Returns:
            The latents, the finest first, (B, D, rows, columns) each, and the share of each
            cell of the coarsest one in the log density in nats, (B, 1, rows, columns).
        """
        x, latents = target, []
        densities: list[Tensor] = []
        levels = zip(
            self.srflow.levels, self.srflow.conditions(input), self.log_dets, strict=True
        )
        for level, condition, log_det in levels:
            assert isinstance(level, LevelGraph)
            x, eps, scales = level.encode_with_scales(x, condition)
            last = len(densities) == len(self.log_dets) - 1
            latents += [eps] if eps is not None else [x] if last else []
            density = _summed(torch.cat([scale.log() for scale in scales], dim=1)) + log_det
            if eps is not None or last:
                density = density - 0.5 * _summed(latents[-1].square() + LOG_2PI)
            densities.append(density)
        total = densities[-1]
        for index, density in enumerate(densities[:-1]):
            cells = F.pixel_unshuffle(density, 1 << (len(densities) - 1 - index))
            total = total + _summed(cells)
        return *latents, total


def _summed(x: Tensor) -> Tensor:
    """Sum (B, C, rows, columns) over its channels, (B, 1, rows, columns)."""
    return x.sum(dim=1, keepdim=True)
