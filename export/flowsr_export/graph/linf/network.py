"""LINF-LP restated for deployment: one graph for every scale and every tile of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowsr_export.graph.axis import (
    Axis,
    half_pixel_taps,
    low_pass,
    neighbours,
    patch_count,
    resized,
    scalar,
)
from flowsr_export.graph.folding import (
    Conditioner,
    decode_maps,
    encode_maps,
    fold_norms,
    padded_width,
)
from flowsr_export.graph.linf.prior import PriorGraph
from flowsr_lp.linf.encoder import continued
from flowsr_lp.linf.model import LinfLP, guarded

__all__ = ["Features", "LinfFixedGraph", "LinfGraph", "read_size"]

LONGEST_SIDE = 1 << 20  # pixels; bounds the exporter's symbols
HALF_BLOCK = 4  # channels of half precision to which the flow's width is filled up
LARGEST_HALF = 65504.0  # largest finite float16

# The tables of `LinfGraph.tables_of`, and the prior's branch of the image if there is a prior.
Features = tuple[tuple[Tensor, ...], Tensor | None]


class LinfGraph(nn.Module):
    """Inference on a tile: encoder and conditioner once, shared by encode and decode.

    Built from a `LinfLP`; the same function as its `forward` with border "extend". In half
    precision the encoder, the conditioner's products and the prior run in `dtype`, and in
    float16 the flow; geometry, phase, resizing, the logits and the final sum stay float32, and
    none of them is a product.

    Attributes:
        products: Whether columns are resized by a product; see `axis.resized`.
    """

    phase: Tensor

    def __init__(self, network: LinfLP, dtype: torch.dtype = torch.float32) -> None:
        """Copy and fold the weights of `network`; inverses are taken in float64.

        Args:
            network: Model in evaluation mode; not changed.
            dtype: Type of the heavy layers, float32, float16 or bfloat16.
        """
        super().__init__()
        linf = network.linf
        self.patch, self.layers, self.dtype = linf.patch_size, linf.flow_layers, dtype
        self.width, self.guard = linf.width, linf.guard
        self.products = dtype == torch.float32
        self.encoder = fold_norms(linf.encoder).to(dtype)
        self.tables = _quarters(linf.coef, linf.freq).to(dtype)
        self.hidden = linf.coef.out_channels
        self.register_buffer("phase", linf.phase.weight.detach().double().mul(torch.pi).float())
        # bfloat16 has 8 bits, too few for ten layers in a row.
        self.flow = torch.float16 if dtype == torch.float16 else torch.float32
        # TensorRT copies the operands of a product in half whose rows are not whole words.
        inner = self.width
        if self.flow == torch.float16:
            inner = -(-self.width // HALF_BLOCK) * HALF_BLOCK
        outer = self.width if network.prior is None else padded_width(self.width)
        self.missing = inner - self.width
        self.conditioner = Conditioner(linf, inner, dtype)
        self.encode_maps = encode_maps(linf.imnet, inner, outer, self.flow)
        self.decode_maps = decode_maps(linf.imnet, inner, outer, self.flow)
        self.prior = None if network.prior is None else PriorGraph(network.prior, dtype)

    def forward(
        self,
        input: Tensor,
        geometry: Tensor,
        latent: Tensor | None = None,
        features: Features | None = None,
    ) -> Tensor:
        """Enlarge a tile.

        Args:
            input: RGB in [0, 1], (B, 3, h, w): the tile's low-resolution pixels.
            geometry: `[h, w, H, W, lr_top, lr_left, out_top, out_left, out_h, out_w]`, the
                whole picture's sizes, where the tile and its window begin, and the window's
                size, (10,) int64.
            latent: Latent to decode, (B, D, rows, cols); only without a learned prior.
            features: What the tile's first stage computed, if it is known.

        Returns:
            RGB, unclamped, (B, 3, out_h, out_w).
        """
        out_h, out_w = read_size(geometry[8]), read_size(geometry[9])
        row, col = self.axes(input, geometry, None if latent is None else latent.shape[2:])
        folded = self.patches(input, row, col, latent, features)
        return folded[:, :, :out_h, :out_w]

    def axes(
        self, input: Tensor, geometry: Tensor, grid: Sequence[int] | None = None
    ) -> tuple[Axis, Axis]:
        """Read the axes of a tile; `grid` is its rows and columns of patches if known."""
        row, col = (
            Axis(
                geometry[i],
                geometry[2 + i],
                geometry[4 + i],
                geometry[6 + i],
                input.shape[2 + i],
                # Read back from a tensor: one fresh symbol, not a quotient in every shape.
                read_size(patch_count(geometry[8 + i], self.patch))
                if grid is None
                else grid[i],
                self.patch,
                continued(self.encoder, input.shape[2 + i]),
                input.device,
            )
            for i in (0, 1)
        )
        return row, col

    def patches(
        self,
        rgb: Tensor,
        row: Axis,
        col: Axis,
        latent: Tensor | None,
        features: Features | None = None,
    ) -> Tensor:
        """Enlarge to whole patches, (B, 3, p · rows, p · cols); `features` may be known."""
        x = rgb * 2 - 1
        tables, branch = (None, None) if features is None else features
        scale, shift = self.condition(x, row, col, tables)
        if latent is None:
            latent = self.predicted(x, row, col, scale, shift, branch)
        return self.decoded(latent, x, row, col, scale, shift)

    def predicted(
        self,
        x: Tensor,
        row: Axis,
        col: Axis,
        scale: list[Tensor],
        shift: list[Tensor],
        branch: Tensor | None = None,
    ) -> Tensor:
        """Predict the latent of a normalized tile, (B, padded_width(D), rows, cols)."""
        assert self.prior is not None
        z = self.encode(self._residual(x, row, col), scale, shift)
        latent: Tensor = self.prior(_grid(z, row, col), x, row, col, branch)
        return latent

    def decoded(
        self,
        latent: Tensor,
        x: Tensor,
        row: Axis,
        col: Axis,
        scale: list[Tensor],
        shift: list[Tensor],
    ) -> Tensor:
        """Decode a latent to whole patches in RGB, (B, 3, p · rows, p · cols)."""
        y = _grid(self._decode(_rows(latent), scale, shift), row, col).float()
        base = self.cut(x, row, col)  # here, so that it need not be kept all the while
        if self.guard:
            y = guarded(y.flatten(2), base.flatten(2), 1).reshape(base.shape)
        return F.pixel_shuffle((y + base) * 0.5 + 0.5, self.patch)

    def tables_of(self, x: Tensor) -> tuple[Tensor, ...]:
        """What queries read of a normalized tile: four tables (B, h, w, hidden / 2).

        Quarters of the channels, channels last: what Gather reads is contiguous.
        """
        features = self.encoder(x.to(self.dtype))
        return tuple(table(features).permute(0, 2, 3, 1) for table in self.tables)

    def condition(
        self, x: Tensor, row: Axis, col: Axis, tables: tuple[Tensor, ...] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Factors and shifts of every flow layer, L tensors each of M = B · N rows."""
        factors, shifts = self.conditioner(*self._fourier(x, row, col, tables))
        return [x.to(self.flow) for x in factors], [x.to(self.flow) for x in shifts]

    def _fourier(
        self, x: Tensor, row: Axis, col: Axis, tables: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine halves, (B · N, 4, hidden / 2) each; spec/linf.md, stage 3."""
        (i, r_row, w_row), (j, r_col, w_col) = neighbours(row), neighbours(col)
        weight = (w_row[:, None, :, None] * w_col[None, :, None, :]).reshape(-1, 1)
        coef_cos, coef_sin, f_row, f_col = self.tables_of(x) if tables is None else tables
        index = _pairs(i, j, col.features)
        cosine, sine = (
            coef.flatten(1, 2).index_select(1, index) for coef in (coef_cos, coef_sin)
        )
        angle = self._angle(f_row, f_col, (i, r_row, row), (j, r_col, col))
        cosine = cosine * (torch.cos(angle) * weight).to(self.dtype)
        sine = sine * (torch.sin(angle) * weight).to(self.dtype)
        n = x.shape[0] * row.patches * col.patches
        shape = (n, 4, self.hidden // 2)
        return cosine.reshape(shape), sine.reshape(shape)

    def _angle(
        self,
        f_row: Tensor,
        f_col: Tensor,
        rows: tuple[Tensor, Tensor, Axis],
        cols: tuple[Tensor, Tensor, Axis],
    ) -> Tensor:
        """Phase of every neighbour, π factored in, (B, 4N, hidden / 2).

        `f_row · r_row` depends on a row of queries and a low-resolution column alone, and
        `f_col · r_col` the other way round: both are multiplied on those smaller grids.
        """
        (i, r_row, row), (j, r_col, col) = rows, cols
        # Not a matrix times a vector, which ONNX Runtime for the web refuses on WebGPU.
        phase = (self.phase * torch.stack([_ratio(row), _ratio(col)])).sum(-1)
        along_rows = f_row.index_select(1, i.reshape(-1)).float()
        along_rows = along_rows * r_row.reshape(-1, 1, 1) + phase
        along_cols = f_col.index_select(2, j.reshape(-1)).float() * r_col.reshape(-1, 1)
        slots = (
            torch.arange(2 * axis.patches, device=axis.device).reshape(-1, 2)
            for axis in (row, col)
        )
        row_slot, col_slot = slots
        first = along_rows.flatten(1, 2).index_select(1, _pairs(row_slot, j, col.features))
        second = along_cols.flatten(1, 2).index_select(1, _pairs(i, col_slot, 2 * col.patches))
        return first + second

    def cut(self, x: Tensor, row: Axis, col: Axis) -> Tensor:
        """Resize a tile (B, 3, h, w) to the window and cut it, (B, D, rows, cols) float32."""
        up_row, up_col = (
            half_pixel_taps(a.pixels(), a.output, a.low_res, a.lr_origin, a.lr_count)
            for a in (row, col)
        )
        up = resized(x, up_row, up_col, products=self.products)
        p = self.patch
        # In steps of four dimensions: ncnn and others know no more.
        up = up.reshape(-1, row.patches, p, col.patches).transpose(1, 2)
        return up.reshape(x.shape[0], self.width, row.patches, col.patches)

    def _residual(self, x: Tensor, row: Axis, col: Axis) -> Tensor:
        """Low-frequency residual of every query, (M, D) in the flow's type.

        `up - R·D·up` with `up = R·x` is `R·(x - D·R·x)`: the low pass runs at low resolution.
        """
        cut = self.cut(x - low_pass(low_pass(x, row, 2), col, 3), row, col)
        return _rows(cut.to(self.flow))

    def encode(self, z: Tensor, scale: list[Tensor], shift: list[Tensor]) -> Tensor:
        """Encode residuals (M, D) to latents (M, padded_width(D))."""
        z = F.pad(z, (0, self.missing))
        *maps, last = self.encode_maps
        for linear, a, b in zip(maps, scale, shift, strict=True):
            z = linear(z) * a + b
        out: Tensor = last(z)
        return out

    def _decode(self, z: Tensor, scale: list[Tensor], shift: list[Tensor]) -> Tensor:
        """Decode latents of the prior's or the input's channels to residuals (M, D)."""
        *maps, last = self.decode_maps
        z = last(z.to(self.flow))
        for linear, a, b in reversed(list(zip(maps, scale, shift, strict=True))):
            z = linear(self._finite((z - b) / a))
        return self._finite(z)

    def _finite(self, z: Tensor) -> Tensor:
        """Keep a patch that explodes in float16 from becoming NaN."""
        return z.clamp(-LARGEST_HALF, LARGEST_HALF) if self.flow == torch.float16 else z


class LinfFixedGraph(nn.Module):
    """The fixed-scale variant: one input, the window is the whole picture."""

    def __init__(self, linf: LinfGraph, scale: Fraction) -> None:
        """Wrap `linf` for outputs of floor(size · scale + 1/2)."""
        super().__init__()
        self.linf = linf
        self.scale = scale

    def forward(self, input: Tensor, latent: Tensor | None = None) -> Tensor:
        """Enlarge a picture (B, 3, h, w), [0, 1], to (B, 3, H, W), unclamped."""
        num, den = self.scale.numerator, self.scale.denominator
        p = self.linf.patch
        axes = []
        for i in (2, 3):
            n = input.shape[i]
            out = (2 * n * num + den) // (2 * den)
            patches = patch_count(out, p) if latent is None else latent.shape[i]
            end = continued(self.linf.encoder, n)
            axes.append(Axis(n, out, 0, 0, n, patches, p, end, input.device))
        folded = self.linf.patches(input, axes[0], axes[1], latent)
        return folded[:, :, : axes[0].output, : axes[1].output]


def read_size(length: Tensor) -> int:
    """Read a size from a scalar tensor; to the exporter it is a symbolic int."""
    size = cast("int", length.item())
    torch._check(size >= 1)  # type: ignore[no-untyped-call]
    torch._check(size <= LONGEST_SIDE)  # type: ignore[no-untyped-call]
    return size


def _ratio(axis: Axis) -> Tensor:
    """Size of an output pixel, 2 · lr / out, a scalar tensor."""
    lr, out = (scalar(n, axis.device) for n in (axis.low_res, axis.output))
    return 2 * lr.float() / out.float()


def _rows(z: Tensor) -> Tensor:
    """Lay (B, C, rows, cols) out as (M, C)."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)


def _grid(z: Tensor, row: Axis, col: Axis) -> Tensor:
    """Lay (M, C) out as (B, C, rows, cols)."""
    return z.reshape(-1, row.patches, col.patches, z.shape[1]).permute(0, 3, 1, 2)


def _pairs(row: Tensor, col: Tensor, width: int) -> Tensor:
    """Flat index of the four pairs of every patch, (rows, 2) and (cols, 2) to (4N,)."""
    return (row[:, None, :, None] * width + col[None, :, None, :]).reshape(-1)


def _quarters(coef: nn.Conv2d, freq: nn.Conv2d) -> nn.ModuleList:
    """Both feature convolutions in halves; the phase's factor π goes into `freq`.

    Four convolutions of one input cost what one does and need no Split of their output.
    """
    quarters = []
    for conv, factor in ((coef, 1.0), (freq, torch.pi)):
        half = conv.out_channels // 2
        for part in (slice(None, half), slice(half, None)):
            quarter = nn.Conv2d(conv.in_channels, half, 3, padding=1)
            state = conv.state_dict()
            quarter.load_state_dict(
                {name: state[name].double()[part] * factor for name in ("weight", "bias")}
            )
            quarters.append(quarter)
    return nn.ModuleList(quarters)
