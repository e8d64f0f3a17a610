"""SRFlow's encoder: RRDB's trunk and the features that each level of the flow reads."""

__all__ = ["RRDBNet", "SrflowEncoder"]

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.linf.encoder import RRDBBlock, conv3x3

SLOPE = 0.2


class RRDBNet(nn.Module):
    """ESRGAN's generator as SRFlow's authors pre-train it; parameter names as released.

    Attributes:
        scale: Output pixels per input pixel and side.
        multiple: Sides of its pictures are multiples of this.
    """

    multiple = 1

    def __init__(self, scale: int = 4, nb: int = 23, nf: int = 64, gc: int = 32) -> None:
        """Build the network.

        Args:
            scale: 4 or 8.
            nb: Blocks of the trunk.
            nf: Channels of the trunk.
            gc: Growth of its dense blocks.
        """
        super().__init__()
        self.scale = scale
        self.conv_first = conv3x3(3, nf)
        self.RRDB_trunk = nn.Sequential(*(RRDBBlock(nf, gc) for _ in range(nb)))
        self.trunk_conv = conv3x3(nf, nf)
        self.doublings = [f"upconv{i + 1}" for i in range(scale.bit_length() - 1)]
        for name in self.doublings:
            self.add_module(name, conv3x3(nf, nf))
        self.HRconv = conv3x3(nf, nf)
        self.conv_last = conv3x3(nf, 3)

    def forward(self, rgb: Tensor) -> Tensor:
        """Upscale pictures (B, 3, h, w) in [0, 1]: (B, 3, scale · h, scale · w), unclamped."""
        x = self.RRDB_trunk(self.conv_first(rgb))
        x = x + self.trunk_conv(x)  # the last block's output, as the flow's encoder has it
        for name in self.doublings:
            doubled = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.leaky_relu(self.get_submodule(name)(doubled), SLOPE)
        out: Tensor = self.conv_last(F.leaky_relu(self.HRconv(x), SLOPE))
        return out


class SrflowEncoder(nn.Module):
    """The trunk, its doublings and its stacked blocks; spec/srflow.md "Encoder"."""

    def __init__(
        self, levels: int, nb: int, blocks: tuple[int, ...], nf: int = 64, gc: int = 32
    ) -> None:
        """Build the encoder of a flow of `levels` levels.

        Args:
            levels: Levels of the flow, L; the finest reads features doubled L − 2 times.
            nb: Blocks of the trunk.
            blocks: Indices of the blocks, from 0, whose outputs every level reads.
            nf: Channels of the trunk.
            gc: Growth of its dense blocks.
        """
        super().__init__()
        self.blocks = blocks
        self.out_dim = nf * (1 + len(blocks))
        self.conv_first = conv3x3(3, nf)
        self.RRDB_trunk = nn.Sequential(*(RRDBBlock(nf, gc) for _ in range(nb)))
        self.trunk_conv = conv3x3(nf, nf)
        self.doublings = [f"upconv{i + 1}" for i in range(levels - 2)]
        for name in self.doublings:
            self.add_module(name, conv3x3(nf, nf))

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Compute what the flow is conditioned on.

        Args:
            rgb: Picture in [0, 1], (B, 3, h, w), h and w even.

        Returns:
            Features of each level, the finest first, (B, out_dim, rows, cols): the last
            level has h/2 rows, the one before h, each one before that twice as many.
        """
        x = self.conv_first(rgb)
        outs = []
        for block in self.RRDB_trunk:
            x = block(x)
            outs.append(x)
        last = x + self.trunk_conv(x)
        halved = F.interpolate(last, scale_factor=0.5, mode="bilinear", align_corners=False)
        features = [halved, last]
        for name in self.doublings:
            doubled = F.interpolate(features[-1], scale_factor=2, mode="nearest")
            features.append(F.leaky_relu(self.get_submodule(name)(doubled), SLOPE))
        stacked = torch.cat([outs[index] for index in self.blocks], dim=1)
        return [
            torch.cat((feature, F.interpolate(stacked, size=feature.shape[2:])), dim=1)
            for feature in reversed(features)
        ]
