"""SRFlow's encoder restated: the features that each level of the flow reads."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.srflow.folding import DoubledConv
from flowsr_lp import SRFlow
from flowsr_lp.linf.encoder import DenseBlock, RRDBBlock

__all__ = ["EncoderGraph", "Source"]

SLOPE = 0.2
RESIDUAL = 0.2  # factor of a dense block, and of three of them

# Features at a level's size, and the stacked blocks at that size or, where the level reads
# them doubled, at half of it.
Source = tuple[Tensor, Tensor]


class EncoderGraph(nn.Module):
    """The trunk, its up-sampled outputs and the stacked blocks; nothing that nobody reads.

    Attributes:
        width: Channels of the features, without the blocks.
        doubled: For each level, the finest first, whether it reads the blocks doubled.
    """

    def __init__(self, srflow: SRFlow, dtype: torch.dtype) -> None:
        """Copy the encoder of `srflow` to run in `dtype`."""
        super().__init__()
        trunk = srflow.RRDB
        self.stacked = tuple(srflow.blocks)
        self.width = trunk.conv_first.out_channels
        self.first = _copied(trunk.conv_first, dtype)
        self.blocks = nn.ModuleList(_folded(block, dtype) for block in trunk.RRDB_trunk)
        self.trunk = _copied(trunk.trunk_conv, dtype)
        # The finest level has half the output's size; each doubling before it has its own.
        doublings = srflow.scale.bit_length() - 2
        convs = (getattr(trunk, f"upconv{i + 1}") for i in range(doublings))
        self.ups = nn.ModuleList(DoubledConv(_weights(conv), dtype) for conv in convs)
        self.doubled = [True] * doublings + [False, False]

    def forward(self, x: Tensor) -> list[Source]:
        """Map a picture (B, 3, h, w) to each level's source, the finest first."""
        x = self.first(x)
        outs = []
        for block in self.blocks:
            x = block(x)
            outs.append(x)
        stacked = torch.cat([outs[i] for i in self.stacked], dim=1)
        last = x + self.trunk(x)
        sources: list[Source] = [
            (F.avg_pool2d(last, 2), stacked[:, :, ::2, ::2]),
            (last, stacked),
        ]
        up, half = last, stacked
        for index, conv in enumerate(self.ups):
            up = F.leaky_relu(conv(up), SLOPE)
            half = stacked if index == 0 else _doubled(half)
            sources.append((up, half))
        return sources[::-1]


class _FoldedBlock(nn.Module):
    """Three dense blocks whose factor is in their last convolutions."""

    def __init__(self, block: RRDBBlock) -> None:
        super().__init__()
        self.dense = nn.ModuleList(
            copy.deepcopy(dense) for dense in (block.RDB1, block.RDB2, block.RDB3)
        )
        with torch.no_grad():
            for dense in self.dense:
                assert isinstance(dense, DenseBlock)
                for tensor in dense.conv5.parameters():
                    tensor.copy_(tensor.double() * RESIDUAL)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for dense in self.dense:
            out = dense(out) + out
        return out * RESIDUAL + x


def _folded(block: nn.Module, dtype: torch.dtype) -> nn.Module:
    assert isinstance(block, RRDBBlock)
    return _FoldedBlock(block).to(dtype).requires_grad_(False)


def _copied(conv: nn.Conv2d, dtype: torch.dtype) -> nn.Conv2d:
    return copy.deepcopy(conv).to(dtype).requires_grad_(False)


def _weights(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert conv.bias is not None
    return conv.weight.detach().double(), conv.bias.detach().double()


def _doubled(x: Tensor) -> Tensor:
    """Double (B, C, h, w) by nearest neighbour."""
    batch, channels, h, w = x.shape
    wide = x.reshape(batch * channels, h, w, 1).expand(-1, -1, -1, 2)
    tall = wide.reshape(batch * channels, h, 1, 2 * w).expand(-1, -1, 2, -1)
    return tall.reshape(batch, channels, 2 * h, 2 * w)
