"""LINF-LP for Inductor on CUDA: the query stage in fused kernels."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.axis import Axis, half_pixel_taps, low_pass, neighbours
from flowsr_export.graph.folding import ChannelMap
from flowsr_export.graph.linf.network import Features, LinfGraph, _grid, _ratio, _rows
from flowsr_export.kernels.operators import first_product, flow_pass, resize_patches
from flowsr_lp.linf.model import guarded

__all__ = ["FusedLinfGraph", "fused"]

M = TypeVar("M", bound=nn.Module)
SMALLEST_BLOCK = 16  # sides of the smallest product of Triton


def fused(graph: LinfGraph) -> FusedLinfGraph:
    """Return the same function with the query stage in the operators of `kernels/`.

    Args:
        graph: Deployment module in any precision; its weights are copied where they change.

    Returns:
        Module in evaluation mode, wherever a `LinfGraph` is taken: on CUDA it runs the Triton
        kernels, elsewhere their definitions in PyTorch.
    """
    return FusedLinfGraph(graph).eval()


class FusedLinfGraph(LinfGraph):
    """`LinfGraph` whose query stage is three operators and the products between them."""

    first: Tensor
    first_bias: Tensor
    last: Tensor
    affine_bias: Tensor
    encode_matrices: Tensor
    encode_offsets: Tensor
    decode_matrices: Tensor
    decode_offsets: Tensor

    def __init__(self, graph: LinfGraph) -> None:
        """Copy and rearrange the weights of `graph`."""
        nn.Module.__init__(self)
        self.patch, self.layers, self.dtype = graph.patch, graph.layers, graph.dtype
        self.width, self.guard, self.hidden = graph.width, graph.guard, graph.hidden
        self.encoder = _channels_last(copy.deepcopy(graph.encoder))
        self.prior = copy.deepcopy(graph.prior)
        if self.prior is not None:
            _channels_last(self.prior)
        self.table = _channels_last(_joined(graph.tables))
        self.register_buffer("phase", graph.phase)
        side = max(SMALLEST_BLOCK, 1 << (self.width - 1).bit_length())
        self._take_conditioner(graph, side)
        for name, maps in (
            ("encode", [*graph.encode_maps]),
            ("decode", [*graph.decode_maps][::-1]),
        ):
            known = [linear for linear in maps if isinstance(linear, ChannelMap)]
            blocks = [_block(linear, side) for linear in known]
            offsets = [F.pad(m.bias, (0, side - len(m.bias))) for m in known]
            self.register_buffer(f"{name}_matrices", torch.stack(blocks))
            self.register_buffer(f"{name}_offsets", torch.stack(offsets).float())
        last = graph.encode_maps[-1]
        assert isinstance(last, ChannelMap)
        self.latent_count = len(last.bias)

    def _take_conditioner(self, graph: LinfGraph, block: int) -> None:
        """Lay out the conditioner's first and last layer for the operators."""
        source = graph.conditioner
        if source.is_half:
            first = source.first.detach()
        else:
            parts = (source.cosine, source.sine)
            first = torch.stack(
                [x.detach().view(x.shape[0], 4, -1) for x in parts], dim=2
            ).flatten(1)
        self.register_buffer("first", first.t().contiguous())
        self.register_buffer("first_bias", source.bias.detach())
        self.weights, self.biases = source.weights, source.biases
        weight, bias = torch.cat([*source.last_weights]), torch.cat([*source.last_biases])
        shape = (2 * self.layers, -1, weight.shape[1])
        weight, bias = weight.view(shape), bias.view(2 * self.layers, -1)
        missing = block - weight.shape[1]
        self.register_buffer("last", F.pad(weight, (0, 0, 0, missing)).flatten(0, 1))
        self.register_buffer("affine_bias", F.pad(bias, (0, missing)).flatten())

    def patches(
        self,
        rgb: Tensor,
        row: Axis,
        col: Axis,
        latent: Tensor | None,
        features: Features | None = None,
    ) -> Tensor:
        """Enlarge to whole patches, (B, 3, p · rows, p · cols)."""
        assert features is None, "its tables have another layout"
        x = rgb * 2 - 1
        affine = self._affine(x, row, col)
        if latent is None:
            assert self.prior is not None
            residual = self._resized(x - low_pass(low_pass(x, row, 2), col, 3), row, col)
            z = self._flow(residual, affine, inverse=False)
            latent = self.prior(_grid(z, row, col), x, row, col)
        y = _grid(self._flow(_rows(latent), affine, inverse=True), row, col)
        base = _grid(self._resized(x, row, col), row, col)
        if self.guard:
            y = guarded(y.flatten(2), base.flatten(2), 1).reshape(base.shape)
        return F.pixel_shuffle((y + base) * 0.5 + 0.5, self.patch)

    def _affine(self, x: Tensor, row: Axis, col: Axis) -> Tensor:
        """Logits and shifts of every flow layer without their bias, (M, 2 · L · P)."""
        # Not a matrix times a vector, as in `LinfGraph._angle`.
        phase = (self.phase * torch.stack([_ratio(row), _ratio(col)])).sum(-1)
        features = self._features(x.to(self.dtype, memory_format=torch.channels_last))
        axes = (*neighbours(row), *neighbours(col))
        return self._products(
            first_product(features, *axes, phase, self.first, self.first_bias)
        )

    def _features(self, x: Tensor) -> Tensor:
        """The four feature tables of a tile (B, 3, h, w), (B, h, w, 2 · hidden)."""
        features: Tensor = self.table(self.encoder(x)).permute(0, 2, 3, 1)
        return features

    def _products(self, out: Tensor) -> Tensor:
        """The conditioner's layers after the first."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            out = F.relu(F.linear(out, weight, bias))
        return F.linear(out, self.last)

    def _flow(self, z: Tensor, affine: Tensor, *, inverse: bool) -> Tensor:
        """Encode residuals (M, D), or decode latents to (M, D) float32."""
        bias = self.affine_bias
        if inverse:
            maps, offsets = self.decode_matrices, self.decode_offsets
            out = flow_pass(z, affine, bias, maps, offsets, True, self.width, torch.float32)
        else:
            maps, offsets, count = self.encode_matrices, self.encode_offsets, self.latent_count
            out = flow_pass(z, affine, bias, maps, offsets, False, count, self.dtype)
        return cast("Tensor", out)

    def _resized(self, x: Tensor, row: Axis, col: Axis) -> Tensor:
        """Resize a tile (B, 3, h, w) to the window and cut it, (M, D) float32."""
        taps = [
            half_pixel_taps(a.pixels(), a.output, a.low_res, a.lr_origin, a.lr_count)
            for a in (row, col)
        ]
        pairs = [torch.stack(pair) for tap in taps for pair in (tap.index, tap.weight)]
        return cast("Tensor", resize_patches(x, *pairs, self.patch))


def _channels_last(module: M) -> M:
    """Lay weights out as a GPU's convolutions read them, without a copy in every run."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def _joined(tables: nn.ModuleList) -> nn.Conv2d:
    """One convolution with the outputs of all `tables`."""
    convs = [table for table in tables if isinstance(table, nn.Conv2d)]
    first = convs[0]
    out = nn.Conv2d(first.in_channels, 4 * first.out_channels, 3, padding=1)
    weights = [conv.state_dict() for conv in convs]
    state = {name: torch.cat([w[name] for w in weights]) for name in ("weight", "bias")}
    out.load_state_dict(state)
    return out.to(first.weight.dtype).requires_grad_(False)


def _block(linear: ChannelMap, side: int) -> Tensor:
    """The transposed weight of a map, filled up to (side, side) with zeros."""
    outputs, inputs = linear.weight.shape
    return F.pad(linear.weight.t(), (0, side - outputs, 0, side - inputs))
