"""Weights folded once at export: inverses, norms and constants, in float64."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.linf.encoder import DenseBlock
from flowsr_lp.linf.flow import Flow
from flowsr_lp.linf.model import LINF

__all__ = [
    "ChannelMap",
    "Conditioner",
    "condition_numbers",
    "decode_maps",
    "encode_maps",
    "fold_norms",
    "last_conditioner_layer",
    "pad_inputs",
    "pad_outputs",
    "padded_width",
]


M = TypeVar("M", bound=nn.Module)
CHANNEL_BLOCK = 16  # channels of one block of ONNX Runtime's blocked convolutions, AVX-512


class ChannelMap(nn.Module):
    """An affine map of channels, W z + b."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        """Keep a float64 `weight` (D', D) and `bias` (D',) as `dtype`."""
        super().__init__()
        self.register_buffer("weight", weight.to(dtype))
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, z: Tensor) -> Tensor:
        """Map (M, D) to (M, D')."""
        return F.linear(z, self.weight, self.bias)


def encode_maps(flow: Flow, inner: int, outer: int, dtype: torch.dtype) -> nn.ModuleList:
    """Return the linear maps of a flow in order, the last one at the end.

    Args:
        flow: The flow, of width D.
        inner: Channels between two maps, at least D; those above D are zero.
        outer: Channels of the latent, at least D; those above D are zero.
        dtype: Type of the maps.
    """
    widths = [(inner, inner)] * len(flow.linears) + [(outer, inner)]
    return nn.ModuleList(
        _padded_map(weight, bias, width, dtype)
        for (weight, bias), width in zip(_maps(flow), widths, strict=True)
    )


def decode_maps(flow: Flow, inner: int, outer: int, dtype: torch.dtype) -> nn.ModuleList:
    """Return the inverses of a flow's linear maps in order; the last one is applied first.

    Args:
        flow: The flow, of width D; the first map's inverse gives D channels.
        inner: Channels between two maps, at least D; those above D are zero.
        outer: Channels of the latent, at least D.
        dtype: Type of the maps.
    """
    count = len(flow.linears)
    width = len(flow.last.bias)
    widths = [(width, inner)] + [(inner, inner)] * (count - 1) + [(inner, outer)]
    maps = []
    for (weight, bias), sides in zip(_maps(flow), widths, strict=True):
        inverse = torch.linalg.inv(weight)
        maps.append(_padded_map(inverse, -inverse @ bias, sides, dtype))
    return nn.ModuleList(maps)


def _maps(flow: Flow) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each map in float64, the last one at the end."""
    return [
        (linear._weight.detach().double(), linear.bias.detach().double())
        for linear in (*flow.linears, flow.last)
    ]


def _padded_map(
    weight: Tensor, bias: Tensor, width: tuple[int, int], dtype: torch.dtype
) -> ChannelMap:
    """Add channels without weight until the map is `width` = (outputs, inputs)."""
    rows, cols = (n - m for n, m in zip(width, weight.shape, strict=True))
    return ChannelMap(F.pad(weight, (0, cols, 0, rows)), F.pad(bias, (0, rows)), dtype)


def condition_numbers(flow: Flow) -> list[float]:
    """Ratio of the largest to the smallest singular value of each map, the last one last."""
    return [float(torch.linalg.cond(weight)) for weight, _ in _maps(flow)]


class Conditioner(nn.Module):
    """The conditioner, up to the flow's factors and shifts; a row for each query.

    With queries as rows, the rows that a product reads have the same length for every image.
    With queries as columns, an engine for a range of sizes copies the features before the first
    product, and the latent before every map of the flow, to fill their rows up.
    """

    def __init__(self, linf: LINF, width: int, dtype: torch.dtype = torch.float32) -> None:
        """Copy the conditioner of `linf` to run in `dtype`, with `width` channels a layer."""
        super().__init__()
        first, *others = [m for m in linf.layers if isinstance(m, nn.Conv2d)][:-1]
        half = linf.coef.out_channels // 2
        weight = first.weight.detach().view(first.out_channels, 4, 2, half)
        self.is_half = dtype != torch.float32
        if self.is_half:
            self.first = _frozen(first.weight.flatten(1), dtype)
        else:
            self.cosine = _frozen(weight[:, :, 0].flatten(1), dtype)
            self.sine = _frozen(weight[:, :, 1].flatten(1), dtype)
        self.bias = _frozen(_bias(first), dtype)
        self.weights = nn.ParameterList(_frozen(m.weight.flatten(1), dtype) for m in others)
        self.biases = nn.ParameterList(_frozen(_bias(m), dtype) for m in others)
        self.layers = linf.flow_layers
        last_weight, last_bias = last_conditioner_layer(linf, width)
        parts = 1 if self.is_half else 2 * self.layers
        self.last_weights = nn.ParameterList(
            _frozen(w, dtype) for w in last_weight.chunk(parts)
        )
        parts = 2 if self.is_half else parts
        self.last_biases = nn.ParameterList(
            _frozen(b, torch.float32) for b in last_bias.chunk(parts)
        )

    def forward(self, cosine: Tensor, sine: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Map features to the flow's factors and shifts.

        Args:
            cosine: Cosine half of the features of M queries, (M, 4, hidden / 2).
            sine: Sine half.

        Returns:
            Factors and shifts of the L layers, (M, width) each.
        """
        if self.is_half:  # one product reads and writes less than two that add up
            halves = torch.cat((cosine, sine), dim=-1).flatten(1)
            out = F.relu(F.linear(halves, self.first, self.bias))
        else:  # two need no copy of both halves, which costs a CPU more
            out = F.linear(cosine.flatten(1), self.cosine, self.bias)
            out = F.relu(out + F.linear(sine.flatten(1), self.sine))
        for weight, bias in zip(self.weights, self.biases, strict=True):
            out = F.relu(F.linear(out, weight, bias))
        return self._half_affine(out) if self.is_half else self._affine(out)

    def _affine(self, out: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The last layer as a product for each part: a CPU need not split a wide one."""
        parts = [
            F.linear(out, weight, bias)
            for weight, bias in zip(self.last_weights, self.last_biases, strict=True)
        ]
        return [torch.sigmoid(x) + 1e-4 for x in parts[: self.layers]], parts[self.layers :]

    def _half_affine(self, out: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The last layer as one product, whose input is read once."""
        logits, shift = F.linear(out, self.last_weights[0]).chunk(2, dim=1)
        logit_bias, shift_bias = self.last_biases
        # A sum in half would round the logits at the bias's magnitude.
        factor = torch.sigmoid(logits.float() + logit_bias) + 1e-4
        shift = shift.float() + shift_bias
        factors, shifts = (x.to(out.dtype).chunk(self.layers, dim=1) for x in (factor, shift))
        return list(factors), list(shifts)


def last_conditioner_layer(linf: LINF, width: int) -> tuple[Tensor, Tensor]:
    """The conditioner's last layer, `width` outputs for each factor and shift of the flow.

    Args:
        linf: The network.
        width: Outputs for each layer of the flow, at least D; those above D are zero.

    Returns:
        Weight (2 · L · width, hidden), whose outputs are all scale logits, then all shifts;
        bias (2 · L · width,) with the logits' + 2 added. Both are float64.
    """
    last = linf.layers[-1]
    assert isinstance(last, nn.Conv2d)
    shape = (linf.flow_layers, 2, linf.width, -1)
    weight = last.weight.detach().double().view(shape).transpose(0, 1)
    bias = _bias(last).double().view(shape).transpose(0, 1).clone()
    bias[0] += 2
    weight, bias = (F.pad(x, (0, 0, 0, width - linf.width)) for x in (weight, bias))
    return weight.flatten(0, 2), bias.flatten()


def padded_width(channels: int) -> int:
    """Channels of a dense block's input once padded to whole blocks of the CPU's kernels."""
    return -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK


def pad_inputs(block: DenseBlock) -> DenseBlock:
    """Copy a dense block that takes `padded_width` channels, the added ones without weight.

    Every concatenation in it then has a multiple of 16 channels, which ONNX Runtime's
    blocked convolutions take. On two AVX2 cores the unpadded block's ran at about 97 GFLOP/s,
    the blocked ones of the same U-Net at 150 to 160.
    """
    growth, channels = block.conv1.weight.shape[:2]
    width = padded_width(channels)
    padded = DenseBlock(width, growth, block.conv5.out_channels)
    for source, target in zip(block.children(), padded.children(), strict=True):
        assert isinstance(source, nn.Conv2d)
        assert isinstance(target, nn.Conv2d)
        assert source.bias is not None
        zeros = source.weight.new_zeros(source.out_channels, width - channels, 3, 3)
        parts = (source.weight[:, :channels], zeros, source.weight[:, channels:])
        target.load_state_dict(
            {"weight": torch.cat(parts, dim=1).detach(), "bias": source.bias.detach()}
        )
    return padded.requires_grad_(False)


def pad_outputs(conv: nn.Conv2d) -> nn.Conv2d:
    """Copy a convolution that gives `padded_width` channels, the added ones zero."""
    out = nn.Conv2d(
        conv.in_channels,
        padded_width(conv.out_channels),
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
    ).requires_grad_(False)
    for name, value in conv.named_parameters():
        target = out.get_parameter(name)
        target.zero_()
        target[: conv.out_channels] = value.detach()
    return out


def fold_norms(module: M) -> M:
    """Copy a module with every BatchNorm folded into the convolution before it."""
    folded = copy.deepcopy(module).eval()
    for child in folded.modules():
        if isinstance(child, nn.Sequential):
            for i in range(len(child) - 1):
                conv, norm = child[i], child[i + 1]
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    child[i] = _folded(conv, norm)
                    child[i + 1] = nn.Identity()
    return folded.requires_grad_(False)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias.detach()


def _frozen(value: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(value.detach().to(dtype).contiguous(), requires_grad=False)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.detach().double() - norm.running_mean.double() * factor
    if conv.bias is not None:
        bias = bias + conv.bias.detach().double() * factor
    out = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
    )
    weight = conv.weight.detach().double() * factor.view(-1, 1, 1, 1)
    out.load_state_dict({"weight": weight, "bias": bias})
    return out
