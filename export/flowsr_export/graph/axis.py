"""One axis of the deployed graph's geometry: every index in integers, every weight exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, overload

import torch
from torch import Tensor

__all__ = [
    "Axis",
    "Taps",
    "aligned_taps",
    "half_pixel_taps",
    "low_pass",
    "neighbours",
    "patch_count",
    "quotient",
    "resized",
    "scalar",
]

# A number of the graph: an int (to the exporter a symbolic one) or an int64 scalar tensor.
Number = int | Tensor
N = TypeVar("N", int, Tensor, Number)


@dataclass(frozen=True)
class Axis:
    """Rows, or columns, of a tile and of the picture that it belongs to.

    Attributes:
        low_res: Low-resolution pixels of the whole image.
        output: Output pixels of the whole image.
        lr_origin: Start of the tile's input, in low-resolution pixels.
        out_origin: Start of the window, in output pixels; a multiple of `patch`.
        lr_count: Low-resolution pixels of the tile.
        patches: Patches of the window; the last may stick out of it.
        patch: Patch side p.
        continued: Features of the tile where the encoder continues it, None where it has
            as many as low-resolution pixels.
        device: Where the index tensors are made, the CPU if None.
    """

    low_res: Number
    output: Number
    lr_origin: Number
    out_origin: Number
    lr_count: int
    patches: int
    patch: int
    continued: int | None = None
    device: torch.device | None = None

    @property
    def features(self) -> int:
        """Features of the tile."""
        return self.lr_count if self.continued is None else self.continued

    def first_patch(self) -> Number:
        """Index of the window's first patch in the whole picture."""
        return quotient(self.out_origin, self.patch)

    def whole_patches(self) -> Number:
        """Patches of the whole picture, ceil(out / p)."""
        return patch_count(self.output, self.patch)

    def pixels(self) -> Tensor:
        """Output rows of the window's patches, sub-row major: (p · patches,) int64.

        The order lets the p·p pixels of a patch become channels by a reshape.
        """
        sub = torch.arange(self.patch, device=self.device).view(-1, 1)
        first = torch.arange(self.patches, device=self.device).view(1, -1) * self.patch
        return (sub + first).reshape(-1) + self.out_origin


def patch_count(size: N, patch: int) -> N:
    """Patches that cover `size` output pixels, ceil(size / p)."""
    return quotient(size + (patch - 1), patch)


def neighbours(axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """Say which features each patch reads; spec/linf.md "Query geometry, exactly".

    Args:
        axis: The axis.

    Returns:
        Feature within the tile (patches, 2) int64, offset r (patches, 2), weight (patches, 2).
    """
    patch = torch.arange(axis.patches, device=axis.device) + axis.first_patch()
    numerator = (2 * patch + 1) * axis.patch * axis.low_res - axis.output
    # numerator >= -out: one whole divisor more makes it positive, one less undoes it.
    low = quotient(numerator + 2 * axis.output, 2 * axis.output) - 1
    # The last tile's features end where the continued image's do.
    count = axis.low_res if axis.continued is None else axis.lr_origin + axis.continued
    index = _clamp(torch.stack((low, low + 1), dim=-1), count)
    distance = numerator.unsqueeze(-1) - 2 * axis.output * index
    offset = distance.float() / _as_float(axis.output, axis.device)
    other = distance.flip(-1).abs().float()
    total = other.sum(-1, keepdim=True)
    weight = torch.where(total == 0, 0.5, other / torch.clamp(total, min=1.0))
    return _clamp(index - axis.lr_origin, axis.features), offset, weight


@dataclass(frozen=True)
class Taps:
    """The two inputs that each output of a resize along one axis reads, and their weights.

    Attributes:
        index: Inputs within the tile, (n,) int64 each; clamped to the tile.
        weight: Weights, (n,) float32 each; both zero where the output is beyond the image.
        count: Input length of the tile.
    """

    index: tuple[Tensor, Tensor]
    weight: tuple[Tensor, Tensor]
    count: int

    def read(self, x: Tensor, dim: int) -> Tensor:
        """Resize dimension `dim` of `x` to n, in the type of `x`."""
        shape = [1] * x.dim()
        shape[dim] = -1
        (low, high), (a, b) = self.index, (w.to(x.dtype).reshape(shape) for w in self.weight)
        return x.index_select(dim, low) * a + x.index_select(dim, high) * b

    def matrix(self) -> Tensor:
        """Return the resize as a matrix, (n, count) float32."""
        column = torch.arange(self.count, device=self.index[0].device)
        parts = [
            (index.unsqueeze(-1) == column).float() * weight.unsqueeze(-1)
            for index, weight in zip(self.index, self.weight, strict=True)
        ]
        return parts[0] + parts[1]


def resized(x: Tensor, row: Taps, col: Taps, *, products: bool) -> Tensor:
    """Resize the last two dimensions of (B, C, h, w).

    Args:
        x: Images.
        row: Taps of the rows.
        col: Taps of the columns.
        products: Resize columns by a product. Reading the last dimension at two places takes
            ONNX Runtime four times as long on a CPU; on a GPU a product in float32 is slow,
            and reads every input.
    """
    x = row.read(x, 2)
    return x @ col.matrix().mT if products else col.read(x, 3)


def half_pixel_taps(
    index: Tensor, n_out: Number, n_in: Number, origin: Number, count: int
) -> Taps:
    """Bilinear resizing with half-pixel centres, on a tile.

    Args:
        index: Output positions in the whole picture, (n,) int64; zero beyond `n_out`.
        n_out: Output length of the whole picture.
        n_in: Input length of the whole picture.
        origin: Start of the tile's input.
        count: Input length of the tile.
    """
    numerator = torch.clamp((2 * index + 1) * n_in - n_out, min=0)
    return _taps(numerator, 2 * n_out, n_in, index < n_out, origin, count)


def low_pass(x: Tensor, axis: Axis, dim: int) -> Tensor:
    """Resize dimension `dim` of a tile up to the output and back to low resolution."""
    index = torch.arange(axis.lr_count, device=axis.device) + axis.lr_origin
    numerator = torch.clamp((2 * index + 1) * axis.output - axis.low_res, min=0)
    low = quotient(numerator, 2 * axis.low_res)
    fraction = (numerator - low * (2 * axis.low_res)).float() / _as_float(
        2 * axis.low_res, axis.device
    )
    up = [
        half_pixel_taps(at, axis.output, axis.low_res, axis.lr_origin, axis.lr_count)
        for at in (low, _clamp(low + 1, axis.output))
    ]
    shape = [1] * x.dim()
    shape[dim] = -1
    fraction = fraction.to(x.dtype).reshape(shape)
    first, second = (taps.read(x, dim) for taps in up)
    return first * (1 - fraction) + second * fraction


def aligned_taps(index: Tensor, n_in: Number, origin: Number, count: int) -> Taps:
    """Bilinear doubling with aligned corners, zero beyond the doubled length.

    Args:
        index: Positions in the whole doubled grid, (n,) int64.
        n_in: Length of the whole grid below.
        origin: Start of the tile's grid.
        count: Length of the tile's grid.
    """
    return _taps(index * (n_in - 1), 2 * n_in - 1, n_in, index < 2 * n_in, origin, count)


def _taps(
    numerator: Tensor,
    denominator: Number,
    n_in: Number,
    inside: Tensor,
    origin: Number,
    count: int,
) -> Taps:
    """Taps around numerator / denominator; no weight where `inside` is false."""
    low = quotient(numerator, denominator)
    fraction = (numerator - low * denominator).float() / _as_float(denominator, low.device)
    inside = inside.float()
    first, second = (_clamp(_clamp(at, n_in) - origin, count) for at in (low, low + 1))
    return Taps((first, second), ((1 - fraction) * inside, fraction * inside), count)


def _clamp(index: Tensor, length: Number) -> Tensor:
    """Clamp to [0, length - 1]."""
    limit = scalar(length, index.device)
    return torch.minimum(torch.clamp(index, min=0), limit - 1)


@overload
def quotient(a: int, b: int) -> int: ...
@overload
def quotient(a: Tensor, b: Number) -> Tensor: ...
@overload
def quotient(a: Number, b: Number) -> Number: ...
def quotient(a: Number, b: Number) -> Number:
    """Divide non-negative integers, rounding down.

    Truncation is the same there and one node of the graph; a floor is ten.
    """
    if isinstance(a, Tensor):
        return torch.div(a, b, rounding_mode="trunc")
    if isinstance(b, Tensor):
        return torch.div(scalar(a, b.device), b, rounding_mode="trunc")
    return a // b


def scalar(number: Number, device: torch.device | None) -> Tensor:
    """Return a number as an int64 scalar tensor."""
    return number if isinstance(number, Tensor) else torch.full((), number, device=device)


def _as_float(number: Number, device: torch.device | None) -> Tensor:
    return scalar(number, device).float()
