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
    "flow_maps",
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

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Keep a float64 `weight` (D', D) and `bias` (D',) as float32."""
        super().__init__()
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float().unsqueeze(-1))

    def forward(self, z: Tensor) -> Tensor:
        """Map (D, M) to (D', M)."""
        return torch.addmm(self.bias, self.weight, z)

    def padded(self) -> ChannelMap:
        """Return the map with `padded_width` outputs, the added ones zero."""
        missing = padded_width(len(self.weight)) - len(self.weight)
        weight = F.pad(self.weight, (0, 0, 0, missing))
        return ChannelMap(weight, F.pad(self.bias.squeeze(-1), (0, missing)))


def flow_maps(flow: Flow, inverse: bool) -> nn.ModuleList:
    """The linear maps of a flow, the last one at the end, or their inverses."""
    maps = []
    for linear in (*flow.linears, flow.last):
        weight = linear._weight.detach().double()
        bias = linear.bias.detach().double()
        if inverse:
            weight = torch.linalg.inv(weight)
            bias = -weight @ bias
        maps.append(ChannelMap(weight, bias))
    return nn.ModuleList(maps)


def condition_numbers(flow: Flow) -> list[float]:
    """Ratio of the largest to the smallest singular value of each map, the last one last."""
    weights = [linear._weight.detach().double() for linear in (*flow.linears, flow.last)]
    return [float(torch.linalg.cond(weight)) for weight in weights]


class Conditioner(nn.Module):
    """The conditioner with channels first; the first layer reads cosines and sines apart.

    Two products that accumulate need no concatenation of the two halves. Channels first,
    the pixels are a product's columns: the first layer alone took 148 ms instead of 163 for
    29,241 queries in ONNX Runtime on two AVX2 cores, and what a flow layer reads is contiguous.
    """

    def __init__(self, linf: LINF, dtype: torch.dtype = torch.float32) -> None:
        """Copy the conditioner of `linf` to run in `dtype`."""
        super().__init__()
        first, *others = [m for m in linf.layers if isinstance(m, nn.Conv2d)][:-1]
        half = linf.coef.out_channels // 2
        weight = first.weight.detach().view(first.out_channels, 4, 2, half)
        self.cosine = _frozen(weight[:, :, 0].flatten(1), dtype)
        self.sine = _frozen(weight[:, :, 1].flatten(1), dtype)
        self.bias = _frozen(_column(first), dtype)
        self.weights = nn.ParameterList(_frozen(m.weight.flatten(1), dtype) for m in others)
        self.biases = nn.ParameterList(_frozen(_column(m), dtype) for m in others)
        last_weight, last_bias = last_conditioner_layer(linf)
        self.last_weight = _frozen(last_weight, dtype)
        self.last_bias = _frozen(last_bias, torch.float32)

    def forward(self, cosine: Tensor, sine: Tensor) -> Tensor:
        """Map the halves of M queries' features, (M, 2 · hidden) each, to (2LD, M) float32."""
        out = torch.addmm(self.bias, self.cosine, cosine.mT)
        out = F.relu(torch.addmm(out, self.sine, sine.mT))
        for weight, bias in zip(self.weights, self.biases, strict=True):
            out = F.relu(torch.addmm(bias, weight, out))
        if out.dtype == torch.float32:
            return torch.addmm(self.last_bias, self.last_weight, out)
        # A sum in half would round the logits at the bias's magnitude.
        return torch.mm(self.last_weight, out).float() + self.last_bias


def last_conditioner_layer(linf: LINF) -> tuple[Tensor, Tensor]:
    """The conditioner's last layer, channels first.

    Args:
        linf: The network.

    Returns:
        Weight (2LD, hidden), whose outputs are all scale logits, then all shifts; bias
        (2LD, 1) with the logits' + 2 added.
    """
    last = linf.layers[-1]
    assert isinstance(last, nn.Conv2d)
    order = torch.arange(2 * linf.flow_layers * linf.width)
    order = order.view(linf.flow_layers, 2, linf.width).transpose(0, 1).reshape(-1)
    bias = _column(last).double()[order]
    bias[: len(bias) // 2] += 2
    return last.weight.detach().flatten(1)[order], bias.float()


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
    return conv.bias.detach().unsqueeze(-1)


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
