"""SRFlow for Inductor on CUDA: its couplings in fused kernels, channels-last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.srflow.level import EPSILON, ConditionGraph, CouplingGraph, LevelGraph
from flowsr_export.graph.srflow.network import SrflowGraph
from flowsr_export.kernels.coupling_operators import coupling_hidden, coupling_map

__all__ = ["FusedLevelGraph", "fused_couplings"]

M = TypeVar("M", bound=nn.Module)

Rows = tuple[Tensor, Tensor, Tensor, int]
"""Affine parameters of some couplings, their bias, hidden parts, and this one's index."""


def fused_couplings(module: M) -> M:
    """Replace the levels of a graph of SRFlow by the same in the operators of `kernels/`.

    Args:
        module: Deployment module; it is changed.

    Returns:
        The module: on CUDA it runs the Triton kernels, elsewhere their definitions in PyTorch.
    """
    for part in module.modules():
        if isinstance(part, SrflowGraph):
            levels = (level for level in part.levels if isinstance(level, LevelGraph))
            part.levels = nn.ModuleList(FusedLevelGraph(level) for level in levels)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class FusedLevelGraph(LevelGraph):
    """`LevelGraph` whose couplings are two operators and the convolutions between them."""

    forward_weights: Tensor
    forward_biases: Tensor
    inverse_weights: Tensor
    inverse_biases: Tensor
    middles: Tensor

    def __init__(self, level: LevelGraph) -> None:
        """Take the weights of `level`, those of products transposed."""
        nn.Module.__init__(self)
        self.chunks, self.steps, self.split = level.chunks, level.steps, level.split
        for name, maps in (("forward", level.forward_maps), ("inverse", level.inverse_maps)):
            convs = [conv for conv in maps if isinstance(conv, nn.Conv2d)]
            self.register_buffer(f"{name}_weights", torch.stack([_product(c) for c in convs]))
            biases = [cast("Tensor", c.bias).detach() for c in convs]
            self.register_buffer(f"{name}_biases", torch.stack(biases))
        middles = [cast("CouplingGraph", step).middle for step in level.steps]
        self.register_buffer("middles", torch.stack([_product(c) for c in middles]))

    def condition(self, up: Tensor, stacked: Tensor) -> list[Rows]:  # type: ignore[override]
        """Run every net that reads features alone; see `LevelGraph.condition`."""
        rows: list[Rows] = []
        for chunk in self.chunks:
            assert isinstance(chunk, ConditionGraph)
            nets = chunk.nets
            out = nets.last(F.relu(nets.middle(F.relu(chunk.features(up, stacked)))))
            affine, hidden = _rows(out), _rows(chunk.hidden(up, stacked))
            nothing = torch.zeros(affine.shape[1], device=affine.device)
            bias = nothing if nets.bias is None else nets.bias.flatten()
            rows += [(affine, bias, hidden, i) for i in range(chunk.count)]
        return rows

    def encode(  # type: ignore[override]
        self, x: Tensor, conditions: Sequence[Rows]
    ) -> tuple[Tensor, Tensor | None]:
        """As `LevelGraph.encode`."""
        x = F.pixel_unshuffle(x, 2)
        size, net, flow = x.shape, None, _rows(x)
        for i, c in enumerate(conditions):
            flow = self._mapped(flow, net, c, i, inverse=False)
            net = self._net(flow, size, c, i)
        assert net is not None
        first, second = flow.chunk(2, dim=1)
        shift, logit = net.chunk(2, dim=1)
        second = (second + shift) * (torch.sigmoid(logit) + EPSILON)
        x = _picture(torch.cat((first, second), dim=1), size)
        if self.split is None:
            return x, None
        first, second = x.chunk(2, dim=1)
        mean, log_deviation = self.split(first).chunk(2, dim=1)
        return first, (second - mean) * torch.exp(-log_deviation)

    def decode(  # type: ignore[override]
        self, x: Tensor, eps: Tensor | None, conditions: Sequence[Rows]
    ) -> Tensor:
        """As `LevelGraph.decode`."""
        if self.split is not None:
            assert eps is not None
            mean, log_deviation = self.split(x).chunk(2, dim=1)
            x = torch.cat((x, mean + torch.exp(log_deviation) * eps), dim=1)
        size, flow = x.shape, _rows(x)
        for i, c in reversed(list(enumerate(conditions))):
            flow = self._mapped(flow, self._net(flow, size, c, i), c, i, inverse=True)
        return F.pixel_shuffle(_picture(flow, size), 2)

    def _net(self, flow: Tensor, size: torch.Size, c: Rows, i: int) -> Tensor:
        """Shifts and logits of a coupling's own net, (M, C)."""
        step = self.steps[i]
        assert isinstance(step, CouplingGraph)
        own = _rows(step.own(_picture(flow, size)[:, : step.own.in_channels]))
        bias = cast("Tensor", step.middle.bias)
        width = own.shape[1]
        hidden = coupling_hidden(own, c[2], c[3] * width, self.middles[i], bias)
        out: Tensor = step.last(_picture(hidden, torch.Size((size[0], width, *size[2:]))))
        return _rows(out)

    def _mapped(
        self, flow: Tensor, net: Tensor | None, c: Rows, i: int, *, inverse: bool
    ) -> Tensor:
        affine, bias, _, index = c
        weights = self.inverse_weights if inverse else self.forward_weights
        biases = self.inverse_biases if inverse else self.forward_biases
        column = 2 * index * flow.shape[1]
        out: Tensor = coupling_map(
            flow, net, weights[i], biases[i], affine, bias, column, inverse
        )
        return out


def _product(conv: nn.Conv2d) -> Tensor:
    """The transposed matrix of a 1x1 convolution."""
    return conv.weight.detach().flatten(1).t().contiguous()


def _rows(x: Tensor) -> Tensor:
    """A row for each cell of (B, C, H, W)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _picture(rows: Tensor, size: torch.Size) -> Tensor:
    """Undo `_rows`; channels-last in memory."""
    return rows.view(size[0], size[2], size[3], -1).permute(0, 3, 1, 2)
