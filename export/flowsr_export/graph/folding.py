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
        self.register_buffer("weight", weight.to(dtype).mT.contiguous())
        self.register_buffer("bias", bias.to(dtype))

    def forward(self, z: Tensor) -> Tensor:
        """Map (M, D) to (M, D')."""
        return torch.addmm(self.bias, z, self.weight)


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
    """The conditioner with channels first, up to the flow's factors and shifts.

    Channels first, the pixels are a product's columns: the first layer alone took 148 ms
    instead of 163 for 29,241 queries in ONNX Runtime on two AVX2 cores, and what a flow layer
    reads is contiguous.
    """

    def __init__(self, linf: LINF, width: int, dtype: torch.dtype = torch.float32) -> None:
        """Copy the conditioner of `linf` to run in `dtype`, with `width` channels a layer."""
        super().__init__()
        first, *others = [m for m in linf.layers if isinstance(m, nn.Conv2d)][:-1]
        half = linf.coef.out_channels // 2
        weight = first.weight.detach().view(first.out_channels, 4, 2, half)
        self.first = nn.ParameterList(
            [_frozen(first.weight.flatten(1).mT, dtype)]
            if dtype != torch.float32
            else [_frozen(weight[:, :, i].flatten(1).mT, dtype) for i in (0, 1)]
        )
        self.bias = _frozen(_column(first), dtype)
        self.weights = nn.ParameterList(_frozen(m.weight.flatten(1).mT, dtype) for m in others)
        self.biases = nn.ParameterList(_frozen(_column(m), dtype) for m in others)
        self.layers = linf.flow_layers
        last_weight, last_bias = last_conditioner_layer(linf, width)
        self.last_weight = _frozen(last_weight, dtype)
        parts = (last_bias,) if dtype == torch.float32 else last_bias.chunk(2)
        self.last_bias = nn.ParameterList(_frozen(part, torch.float32) for part in parts)

    def forward(self, cosine: Tensor, sine: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Map features to the flow's factors and shifts.

        Args:
            cosine: Cosine half of the features of M queries, (M, 4, hidden / 2).
            sine: Sine half.

        Returns:
            Factors and shifts of the L layers, (width, M) each.
        """
        if len(self.first) == 1:  # one product reads and writes less than two that add up
            halves = torch.cat((cosine, sine), dim=-1).flatten(1)
            out = F.relu(torch.addmm(self.bias, halves, self.first[0]))
        else:  # two need no copy of both halves, which costs a CPU more
            out = torch.addmm(self.bias, cosine.flatten(1), self.first[0])
            out = F.relu(torch.addmm(out, sine.flatten(1), self.first[1]))
        for weight, bias in zip(self.weights, self.biases, strict=True):
            out = F.relu(torch.addmm(bias, out, weight))
        if out.dtype == torch.float32:
            both = torch.addmm(self.last_bias[0], out, self.last_weight).chunk(2 * self.layers, 1)
            factors = [torch.sigmoid(logits) + 1e-4 for logits in both[: self.layers]]
            return factors, list(both[self.layers :])
        # A sum in half would round the logits at the bias's magnitude.
        logits, shift = torch.mm(out, self.last_weight).chunk(2, 1)
        logit_bias, shift_bias = self.last_bias
        factor = torch.sigmoid(logits.float() + logit_bias) + 1e-4
        shift = shift.float() + shift_bias
        factors, shifts = (x.to(out.dtype).chunk(self.layers, 1) for x in (factor, shift))
        return list(factors), list(shifts)


def last_conditioner_layer(linf: LINF, width: int) -> tuple[Tensor, Tensor]:
    """The conditioner's last layer, channels first, `width` channels for each flow layer.

    Args:
        linf: The network.
        width: Outputs for each layer of the flow, at least D; those above D are zero.

    Returns:
        Weight (2 · L · width, hidden), whose outputs are all scale logits, then all shifts;
        bias (2 · L · width, 1) with the logits' + 2 added.
    """
    last = linf.layers[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    shape = (linf.flow_layers, 2, linf.width, -1)
    weight = last.weight.detach().double().view(shape).transpose(0, 1)
    bias = last.bias.detach().double().view(shape).transpose(0, 1).clone()
    bias[0] += 2
    weight, bias = (F.pad(x, (0, 0, 0, width - linf.width)) for x in (weight, bias))
    return weight.flatten(0, 2).mT, bias.flatten()


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


def _column(conv: nn.Conv2d) -> Tensor:
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
