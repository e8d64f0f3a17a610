"""Weights folded once at export: inverses, norms and constants, in float64."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_lp.flow import Flow
from flowsr_lp.linf import LINF

__all__ = [
    "ChannelMap",
    "RowConditioner",
    "condition_numbers",
    "flow_maps",
    "fold_norms",
    "last_conditioner_layer",
]


M = TypeVar("M", bound=nn.Module)


class ChannelMap(nn.Module):
    """An affine map of channels, W z + b."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Keep a float64 `weight` (D, D) and `bias` (D,) as float32."""
        super().__init__()
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float().unsqueeze(-1))

    def forward(self, z: Tensor) -> Tensor:
        """Map (B, D, N) to the same shape."""
        return torch.matmul(self.weight, z) + self.bias


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


class RowConditioner(nn.Module):
    """The conditioner's hidden layers on rows; the first reads cosines and sines apart.

    Two products that accumulate need no concatenation of the two halves.
    """

    def __init__(self, linf: LINF) -> None:
        """Copy the hidden layers of `linf`."""
        super().__init__()
        first, *others = [m for m in linf.layers if isinstance(m, nn.Conv2d)][:-1]
        hidden = linf.coef.out_channels
        weight = first.weight.detach().view(first.out_channels, 4, 2, hidden // 2)
        self.cosine = _linear(weight[:, :, 0].flatten(1), first.bias)
        self.sine = nn.Parameter(weight[:, :, 1].flatten(1).T.contiguous(), requires_grad=False)
        self.others = nn.ModuleList(_linear(m.weight.flatten(1), m.bias) for m in others)

    def forward(self, cosine: Tensor, sine: Tensor) -> Tensor:
        """Map both halves of the Fourier features, (R, 2 · hidden) each, to (R, hidden)."""
        rows = F.relu(torch.addmm(self.cosine(cosine), sine, self.sine))
        for layer in self.others:
            rows = F.relu(layer(rows))
        return rows


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
    assert last.bias is not None
    order = torch.arange(2 * linf.flow_layers * linf.width)
    order = order.view(linf.flow_layers, 2, linf.width).transpose(0, 1).reshape(-1)
    bias = last.bias.detach().double()[order]
    bias[: len(bias) // 2] += 2
    return last.weight.detach().flatten(1)[order], bias.float().unsqueeze(-1)


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


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    assert bias is not None
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return linear.requires_grad_(False)


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
