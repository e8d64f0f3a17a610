"""SRFlow and SRFlow-LP restated for deployment: what both directions share, once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.axis import Axis
from flowsr_export.graph.srflow.encoder import EncoderGraph
from flowsr_export.graph.srflow.folding import levels_of
from flowsr_export.graph.srflow.level import Condition, LevelGraph
from flowsr_export.graph.srflow.prior import SrflowPriorGraph
from flowsr_lp import SrflowLP

__all__ = ["SrflowGraph", "SrflowPlainGraph", "SrflowSampledGraph", "axes_of"]


class SrflowGraph(nn.Module):
    """Inference of SRFlow-LP on a tile: one encoder, one conditioning for both directions.

    The same function as `SrflowLP` on pictures of even sides. In half precision the encoder,
    the feature nets, the couplings' convolutions of features and the prior run in `dtype`;
    the rest of the couplings, the flow's arithmetic and the up-sampling stay float32.
    """

    def __init__(self, network: SrflowLP, dtype: torch.dtype = torch.float32) -> None:
        """Copy and fold the weights of `network`; inverses are taken in float64.

        Args:
            network: Model in evaluation mode; not changed.
            dtype: Type of the heavy layers, float32, float16 or bfloat16.
        """
        super().__init__()
        srflow = network.srflow
        self.scale, self.dtype = srflow.scale, dtype
        self.encoder = EncoderGraph(srflow, dtype)
        self.levels = nn.ModuleList(
            LevelGraph(level, self.encoder.width, doubled, dtype)
            for level, doubled in zip(levels_of(srflow), self.encoder.doubled, strict=True)
        )
        patches = [latent.patch for latent in srflow.latents]
        self.prior = None
        if network.prior is not None:
            self.prior = SrflowPriorGraph(network.prior, patches, dtype)

    def forward(self, input: Tensor, geometry: Tensor) -> Tensor:
        """Enlarge a tile with the learned prior.

        Args:
            input: RGB in [0, 1], (B, 3, h, w), even sides: the tile's low-resolution pixels.
            geometry: `[h, w, H, W, lr_top, lr_left, out_top, out_left, out_h, out_w]`, the
                whole picture's sizes and where the tile begins in it, (10,) int64.

        Returns:
            RGB, unclamped, (B, 3, scale · h, scale · w).
        """
        rows, cols = axes_of(input, geometry)
        return self.upscale(input, rows, cols)

    def upscale(self, rgb: Tensor, row: Axis, col: Axis) -> Tensor:
        """Encode the interpolated image, predict the latents and decode them."""
        conditions = self.conditions(rgb)
        return self.decode(self.predicted(rgb, conditions, row, col), conditions)

    def predicted(
        self, rgb: Tensor, conditions: list[list[Condition]], row: Axis, col: Axis
    ) -> list[Tensor]:
        """Encode the interpolated image and predict the latents, the finest first."""
        assert self.prior is not None
        x = F.interpolate(rgb, scale_factor=self.scale, mode="bilinear", align_corners=False)
        encoded: list[Tensor] = []
        for level, condition in zip(self.levels, conditions, strict=True):
            assert isinstance(level, LevelGraph)
            x, eps = level.encode(x, condition)
            encoded += [] if eps is None else [eps]
        latents: list[Tensor] = self.prior([*encoded, x], row, col)
        return latents

    def conditions(self, rgb: Tensor) -> list[list[Condition]]:
        """Compute the conditions of every coupling, the finest level first."""
        sources = self.encoder(rgb.to(self.dtype))
        conditions = []
        for level, source in zip(self.levels, sources, strict=True):
            assert isinstance(level, LevelGraph)
            conditions.append(level.condition(*source))
        return conditions

    def decode(self, latents: Sequence[Tensor], conditions: list[list[Condition]]) -> Tensor:
        """Map latents, the finest first, to a picture."""
        waiting = list(latents)
        x = waiting.pop()
        for level, condition in zip(reversed(self.levels), reversed(conditions), strict=True):
            assert isinstance(level, LevelGraph)
            x = level.decode(x, waiting.pop() if level.split is not None else None, condition)
        return x


def axes_of(input: Tensor, geometry: Tensor) -> tuple[Axis, Axis]:
    """Return rows and columns of a tile; see `SrflowGraph.forward`."""
    row, col = (
        Axis(
            geometry[i],
            geometry[2 + i],
            geometry[4 + i],
            geometry[6 + i],
            input.shape[2 + i],
            0,
            1,
            device=input.device,
        )
        for i in (0, 1)
    )
    return row, col


class SrflowPlainGraph(nn.Module):
    """Whole pictures of even sides with the learned prior: the single input `input`."""

    def __init__(self, srflow: SrflowGraph) -> None:
        """Wrap the graph for tiles."""
        super().__init__()
        self.srflow = srflow

    def forward(self, input: Tensor) -> Tensor:
        """Enlarge a picture (B, 3, h, w), [0, 1], to (B, 3, scale · h, scale · w)."""
        scale = self.srflow.scale
        rows, cols = (
            Axis(n, scale * n, 0, 0, n, 0, 1, device=input.device) for n in input.shape[2:]
        )
        return self.srflow.upscale(input, rows, cols)


class SrflowSampledGraph(nn.Module):
    """Decode latents that are drawn outside: no encoding, no prior, tiles as they are."""

    def __init__(self, srflow: SrflowGraph) -> None:
        """Wrap a graph without a prior."""
        super().__init__()
        self.srflow = srflow

    def forward(
        self, input: Tensor, latent0: Tensor, latent1: Tensor, latent2: Tensor | None = None
    ) -> Tensor:
        """Enlarge a tile.

        Args:
            input: RGB in [0, 1], (B, 3, h, w), even sides.
            latent0: Latent of the finest level, (B, D, rows, columns).
            latent1: Latent of the next level that has one.
            latent2: Latent of the next, for networks with three.

        Returns:
            RGB, unclamped, (B, 3, scale · h, scale · w).
        """
        latents = [latent0, latent1] + ([] if latent2 is None else [latent2])
        return self.srflow.decode(latents, self.srflow.conditions(input))
