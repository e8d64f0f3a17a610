"""SRFlow's weights folded once at export, in float64: norms, gains, 1x1 maps and inverses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.folding import padded_width
from flowsr_lp import SRFlow

__all__ = [
    "Coupling",
    "DoubledConv",
    "Level",
    "Split",
    "Weights",
    "convolution",
    "interleave",
    "levels_of",
]

PICTURE_CHANNELS = 8  # below one block of ONNX Runtime's blocked convolutions, AVX2

Tensors = dict[str, Tensor]
Weights = tuple[Tensor, Tensor]  # weight (O, I, k, k) and bias (O,)


@dataclass(frozen=True)
class Coupling:
    """One step of the flow; weights and biases in float64.

    Attributes:
        forward: Affine map of the channels before the coupling, of all steps since the last.
        inverse: Inverse of `forward`.
        features: The three convolutions of the feature-conditional net; the last gives C
            shifts, then C logits with 2 added.
        affine: Those of the self-conditional net; the last gives the shifts of the second
            half, then its logits.
        own: Weight of `affine`'s first convolution on the first half of the channels; the one
            in `affine` is that on the features.
    """

    forward: Weights
    inverse: Weights
    features: tuple[Weights, Weights, Weights]
    affine: tuple[Weights, Weights, Weights]
    own: Tensor

    @property
    def width(self) -> int:
        """Channels C."""
        return len(self.forward[1])


@dataclass(frozen=True)
class Split:
    """The split after a level.

    Attributes:
        weights: Convolution of the half that goes on: means, then log deviations.
    """

    weights: Weights


@dataclass(frozen=True)
class Level:
    """One level of the flow.

    Attributes:
        couplings: Steps in the order of encoding.
        split: Split after the couplings, None if there is none.
    """

    couplings: tuple[Coupling, ...]
    split: Split | None


def levels_of(srflow: SRFlow) -> list[Level]:
    """Fold every weight of the flow.

    Args:
        srflow: The network; not changed.

    Returns:
        The levels, the finest first.
    """
    tensors = {
        name: value.detach().double()
        for name, value in srflow.flowUpsamplerNet.state_dict().items()
    }
    levels: list[Level] = []
    couplings: list[Coupling] = []
    before: list[Weights] = []
    for index in range(len(srflow.flowUpsamplerNet.layers)):
        layer = _below(tensors, f"layers.{index}.")
        if "conv.weight" in layer:
            weights = _halves(_gained(_below(layer, "conv.")))
            levels.append(Level(tuple(couplings), Split(weights)))
            couplings = []
        elif "invconv.weight" in layer:
            before.append(_step(layer))
            if "affine.fAffine.4.bias" in layer:
                couplings.append(_coupling(layer, before))
                before = []
        elif couplings:  # a squeeze begins the next level
            levels.append(Level(tuple(couplings), None))
            couplings = []
    return [*levels, Level(tuple(couplings), None)] if couplings else levels


def convolution(weights: Weights, dtype: torch.dtype, groups: int = 1) -> nn.Conv2d:
    """Make a convolution that keeps the size.

    Args:
        weights: Weight (O, I / groups, k, k) with k 1 or 3, bias (O,), in any type.
        dtype: Type of the layer.
        groups: Groups of channels.
    """
    weight, bias = weights
    conv = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        weight.shape[2],
        padding=weight.shape[2] // 2,
        groups=groups,
    )
    conv.load_state_dict({"weight": weight, "bias": bias})
    return conv.to(dtype).requires_grad_(False)


class DoubledConv(nn.Module):
    """A 3x3 convolution of a picture doubled by nearest neighbour, before the doubling.

    A pixel of the doubled picture sees four different pixels, not nine: each of the four
    positions in a block has a 2x2 kernel of its own, summed in float64. 4 / 9 of the work.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        """Fold a weight (O, I, 3, 3) and a bias (O,)."""
        super().__init__()
        weight, bias = weights
        self.phases = nn.ModuleList()
        for row in (0, 1):
            for col in (0, 1):
                phase = nn.Conv2d(weight.shape[1], weight.shape[0], 2)
                merged = _merged(_merged(weight, 2, row), 3, col)
                phase.load_state_dict({"weight": merged, "bias": bias})
                self.phases.append(phase.to(dtype).requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, I, h, w) to (B, O, 2h, 2w)."""
        parts = []
        for index, phase in enumerate(self.phases):
            row, col = divmod(index, 2)
            parts.append(phase(F.pad(x, (1 - col, col, 1 - row, row))))
        return interleave(parts)


def interleave(parts: list[Tensor]) -> Tensor:
    """Join four maps (B, C, h, w), the positions of a block, to (B, C, 2h, 2w)."""
    batch, channels, h, w = parts[0].shape
    # Two moves of one axis each, the second of rows: ONNX Runtime is slow at both at once.
    blocks = torch.cat(parts, dim=1).reshape(2 * batch, 2, channels * h * w)
    rows = blocks.transpose(1, 2).reshape(batch, 2, channels * h, 2 * w)
    return rows.transpose(1, 2).reshape(batch, channels, 2 * h, 2 * w)


def _merged(weight: Tensor, dim: int, phase: int) -> Tensor:
    """Sum the taps along `dim` that meet the same pixel: (…, 3, …) to (…, 2, …)."""
    first, middle, last = weight.unbind(dim)
    pairs = (first, middle + last) if phase == 0 else (first + middle, last)
    return torch.stack(pairs, dim)


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _step(layer: Tensors) -> Weights:
    """ActNorm and 1x1 as one map: W ((x + b) · exp(logs))."""
    weight = layer["invconv.weight"] * layer["actnorm.logs"].flatten().exp()
    return weight, weight @ layer["actnorm.bias"].flatten()


def _coupling(layer: Tensors, steps: list[Weights]) -> Coupling:
    weight, bias = steps[0]
    for after, shift in steps[1:]:
        weight, bias = after @ weight, after @ bias + shift
    inverse = torch.linalg.inv(weight)
    features = _net(_below(layer, "affine.fFeatures."))
    affine = _net(_below(layer, "affine.fAffine."))
    first, first_bias = affine[0]
    half = len(bias) // 2
    return Coupling(
        forward=_pointwise(weight, bias),
        inverse=_pointwise(inverse, -inverse @ bias),
        features=features,
        affine=((first[:, half:], first_bias), *affine[1:]),
        own=_whole_blocks(first[:, :half], len(bias)),
    )


def _net(net: Tensors) -> tuple[Weights, Weights, Weights]:
    """Fold a coupling's net: two normed convolutions, and one with a gain."""
    normed = []
    for index in ("0", "2"):
        gain = net[f"{index}.actnorm.logs"].flatten().exp()
        weight = net[f"{index}.weight"] * gain.view(-1, 1, 1, 1)
        normed.append((weight, net[f"{index}.actnorm.bias"].flatten() * gain))
    weight, bias = _halves(_gained(_below(net, "4.")))
    bias[len(bias) // 2 :] += 2
    return normed[0], normed[1], (weight, bias)


def _gained(conv: Tensors) -> Weights:
    """A convolution times exp(3 · logs)."""
    gain = (3 * conv["logs"].flatten()).exp()
    return conv["weight"] * gain.view(-1, 1, 1, 1), conv["bias"] * gain


def _halves(weights: Weights) -> Weights:
    """Bring the even channels before the odd ones."""
    weight, bias = (torch.cat((tensor[0::2], tensor[1::2])) for tensor in weights)
    return weight, bias


def _pointwise(weight: Tensor, bias: Tensor) -> Weights:
    return weight[:, :, None, None], bias


def _whole_blocks(weight: Tensor, channels: int) -> Tensor:
    """Let a convolution read up to whole blocks of the CPU's kernels, with zeros.

    The added channels exist already: they are those of the second half. With fewer channels
    than a block nothing is added: there is a kernel for the channels of images.
    """
    if weight.shape[1] < PICTURE_CHANNELS:
        return weight
    target = min(padded_width(weight.shape[1]), channels)
    return F.pad(weight, (0, 0, 0, 0, 0, target - weight.shape[1]))
