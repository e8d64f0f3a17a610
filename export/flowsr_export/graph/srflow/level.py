"""One level of SRFlow's flow restated: everything that both directions read comes first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.srflow.folding import (
    Coupling,
    DoubledConv,
    Level,
    Weights,
    convolution,
)

__all__ = ["Condition", "LevelGraph"]

EPSILON = 1e-4
# Couplings whose nets run as one. More need more memory: the full network on 96×96 pixels took
# 67 KB per low-resolution pixel with 16 and 38 KB with 4, float32, ONNX Runtime on the CPU.
CHUNK = 4


class Condition(NamedTuple):
    """Condition of one coupling, used in both directions.

    Attributes:
        shift: Shift of the feature-conditional part, (B, C, H, W) float32.
        scale: Scale of the same shape.
        hidden: The features' part of the self-conditional net's first convolution.
    """

    shift: Tensor
    scale: Tensor
    hidden: Tensor


class LevelGraph(nn.Module):
    """Squeeze, couplings and the split after them, in both directions."""

    def __init__(self, level: Level, width: int, doubled: bool, dtype: torch.dtype) -> None:
        """Build a level.

        Args:
            level: Folded weights of the level.
            width: Channels of the features; the stacked blocks are the others.
            doubled: Whether the stacked blocks come at half the level's size.
            dtype: Type of the convolutions that read features alone.
        """
        super().__init__()
        couplings = level.couplings
        self.chunks = nn.ModuleList(
            ConditionGraph(couplings[i : i + CHUNK], width, doubled, dtype)
            for i in range(0, len(couplings), CHUNK)
        )
        self.steps = nn.ModuleList(CouplingGraph(c) for c in couplings)
        self.forward_maps = nn.ModuleList(_float(c.forward) for c in couplings)
        self.inverse_maps = nn.ModuleList(_float(c.inverse) for c in couplings)
        self.split = None if level.split is None else _float(level.split.weights)

    def condition(self, up: Tensor, stacked: Tensor) -> list[Condition]:
        """Run every net that reads features alone.

        Args:
            up: Features, (B, width, H, W).
            stacked: Stacked blocks, at that size or half of it.

        Returns:
            The condition of each coupling, in the order of encoding.
        """
        return [condition for chunk in self.chunks for condition in chunk(up, stacked)]

    def encode(
        self, x: Tensor, conditions: Sequence[Condition]
    ) -> tuple[Tensor, Tensor | None]:
        """Map (B, C, 2H, 2W) to what goes on, and the latent that splits off, if any."""
        return self.encode_with_scales(x, conditions)[:2]

    def encode_with_scales(
        self, x: Tensor, conditions: Sequence[Condition]
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Encode as `encode`; also return what values were multiplied by, (B, …, H, W) each."""
        x = F.pixel_unshuffle(x, 2)
        scales: list[Tensor] = []
        for step, linear, c in zip(self.steps, self.forward_maps, conditions, strict=True):
            x = (linear(x) + c.shift) * c.scale
            first, second = x.chunk(2, dim=1)
            shift, scale = step(x, c.hidden)
            x = torch.cat((first, (second + shift) * scale), dim=1)
            scales += [c.scale, scale]
        if self.split is None:
            return x, None, scales
        first, second = x.chunk(2, dim=1)
        mean, log_deviation = self.split(first).chunk(2, dim=1)
        scale = torch.exp(-log_deviation)
        return first, (second - mean) * scale, [*scales, scale]

    def decode(self, x: Tensor, eps: Tensor | None, conditions: Sequence[Condition]) -> Tensor:
        """Map what came from below, and the level's own latent, to (B, C, 2H, 2W)."""
        if self.split is not None:
            assert eps is not None
            mean, log_deviation = self.split(x).chunk(2, dim=1)
            x = torch.cat((x, mean + torch.exp(log_deviation) * eps), dim=1)
        steps = zip(self.steps, self.inverse_maps, conditions, strict=True)
        for step, inverse, c in reversed(list(steps)):
            first, second = x.chunk(2, dim=1)
            shift, scale = step(x, c.hidden)
            x = torch.cat((first, second / scale - shift), dim=1)
            x = inverse(x / c.scale - c.shift)
        return F.pixel_shuffle(x, 2)


class ConditionGraph(nn.Module):
    """The nets of some couplings that read features alone."""

    def __init__(
        self, couplings: Sequence[Coupling], width: int, doubled: bool, dtype: torch.dtype
    ) -> None:
        """Join the nets of `couplings`; see `LevelGraph`."""
        super().__init__()
        self.count = len(couplings)
        self.features = FirstConv([c.features[0] for c in couplings], width, doubled, dtype)
        self.nets = FeatureNets(couplings, dtype)
        self.hidden = FirstConv([c.affine[0] for c in couplings], width, doubled, dtype)

    def forward(self, up: Tensor, stacked: Tensor) -> list[Condition]:
        """Run them on features (B, width, H, W) and the stacked blocks."""
        affine = self.nets(self.features(up, stacked))
        hidden = self.hidden(up, stacked).chunk(self.count, dim=1)
        return [
            Condition(shift, torch.sigmoid(logit) + EPSILON, part)
            for (shift, logit), part in zip(affine, hidden, strict=True)
        ]


class FirstConv(nn.Module):
    """The first convolutions of many nets that read the same features, as one."""

    def __init__(
        self, weights: Sequence[Weights], width: int, doubled: bool, dtype: torch.dtype
    ) -> None:
        """Join weights (O, width + stacked, 3, 3) and biases (O,)."""
        super().__init__()
        weight = torch.cat([weight for weight, _ in weights])
        bias = torch.cat([bias for _, bias in weights])
        self.doubled = None
        if doubled:
            nothing = torch.zeros_like(bias)
            self.doubled = DoubledConv((weight[:, width:], nothing), dtype)
            weight = weight[:, :width]
        self.conv = convolution((weight, bias), dtype)

    def forward(self, up: Tensor, stacked: Tensor) -> Tensor:
        """Map features and stacked blocks to (B, nets · O, H, W)."""
        if self.doubled is None:
            out: Tensor = self.conv(torch.cat((up, stacked), dim=1))
            return out
        out = self.conv(up) + self.doubled(stacked)
        return out


class FeatureNets(nn.Module):
    """The feature-conditional nets of many couplings after their first convolution."""

    def __init__(self, couplings: Sequence[Coupling], dtype: torch.dtype) -> None:
        """Join the second and third convolutions in groups."""
        super().__init__()
        groups = len(couplings)
        self.width, self.groups = couplings[0].width, groups
        middle, last = (_joined([c.features[i] for c in couplings]) for i in (1, 2))
        self.middle = convolution(middle, dtype, groups)
        if dtype == torch.float32:
            self.last, self.bias = convolution(last, dtype, groups), None
        else:  # a sum in half would round the logits at the bias's magnitude
            nothing = torch.zeros_like(last[1])
            self.last = convolution((last[0], nothing), dtype, groups)
            self.bias = nn.Parameter(last[1].float().view(-1, 1, 1), requires_grad=False)

    def forward(self, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Map the first convolutions' outputs to (shift, logit) pairs in float32."""
        out = self.last(F.relu(self.middle(F.relu(hidden)))).float()
        if self.bias is not None:
            out = out + self.bias
        parts = out.split(self.width, dim=1)
        return list(zip(parts[0::2], parts[1::2], strict=True))


class CouplingGraph(nn.Module):
    """The self-conditional net of one coupling, its features' part computed before."""

    def __init__(self, coupling: Coupling) -> None:
        """Take the folded weights."""
        super().__init__()
        nothing = torch.zeros(len(coupling.own))
        self.own = _float((coupling.own, nothing))
        self.middle = _float(coupling.affine[1])
        self.last = _float(coupling.affine[2])

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W) and the features' part to shift and scale of the second half."""
        own = self.own(x[:, : self.own.in_channels]) + hidden.float()
        out = self.last(F.relu(self.middle(F.relu(own))))
        shift, logit = out.chunk(2, dim=1)
        return shift, torch.sigmoid(logit) + EPSILON


def _joined(weights: Sequence[Weights]) -> Weights:
    return torch.cat([w for w, _ in weights]), torch.cat([b for _, b in weights])


def _float(weights: Weights) -> nn.Conv2d:
    return convolution(weights, torch.float32)
