"""Query geometry in integers: which low-resolution pixels each output patch reads."""

__all__ = ["Border", "Queries", "patch_count", "queries"]

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Border = Literal["extend", "tight", "paired"]


@dataclass(frozen=True)
class Queries:
    """The four neighbours of every patch, in the order (-,-), (-,+), (+,-), (+,+).

    Attributes:
        rows: Patch rows.
        cols: Patch columns.
        index: Feature read, `row * width + column` of the features, (N, 4) int64.
        offset: Query minus neighbour centre (row, column), one pixel is 2 wide, (N, 4, 2).
        weight: Area weight, the four sum to one, (N, 4).
    """

    rows: int
    cols: int
    index: Tensor
    offset: Tensor
    weight: Tensor


def patch_count(size: int, patch: int, border: Border) -> int:
    """Patch rows that cover `size` output pixels; spec/linf.md "Borders"."""
    return size // patch + 1 if border == "paired" else -(-size // patch)


def queries(
    lr: tuple[int, int],
    size: tuple[int, int],
    patch: int,
    border: Border,
    origin: tuple[int, int] = (0, 0),
    features: tuple[int, int] | None = None,
    window: tuple[int, int] | None = None,
    device: torch.device | None = None,
) -> Queries:
    """Lay out the queries of one picture; spec/linf.md "Query geometry, exactly".

    Args:
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        patch: Patch side p; 1 for the pixel variant.
        border: Rule for patches beyond the image's edge.
        origin: Rows and columns by which the patch grid begins before the image; training
            alone moves it.
        features: Rows and columns of the features, those of the image if None.
        window: Patch rows and columns from the origin on; all that cover the image if None.
        device: Where the tensors are made, the CPU if None.

    Returns:
        Geometry of N = rows · cols patches in row-major order.
    """
    counted = (patch_count(s + o, patch, border) for s, o in zip(size, origin, strict=True))
    rows, cols = window or counted
    # Twice the centre plus one, 2Y + 1, is an integer for odd and even patches alike.
    y, x = (
        patch * (2 * torch.arange(count, device=device) + 1) - 2 * begin
        for count, begin in zip((rows, cols), origin, strict=True)
    )
    y, x = y.view(-1, 1).expand(rows, cols), x.view(1, -1).expand(rows, cols)
    if border != "extend":
        outside = (y > 2 * size[0]) | (x > 2 * size[1])
        y, x = torch.where(outside, size[0], y), torch.where(outside, size[1], x)
    counts = features or lr
    row, row_offset, row_weight = _neighbours(y.reshape(-1), lr[0], size[0], counts[0])
    col, col_offset, col_weight = _neighbours(x.reshape(-1), lr[1], size[1], counts[1])
    index = row[:, :, None] * counts[1] + col[:, None, :]
    offset = torch.stack(
        (
            row_offset[:, :, None].expand_as(index),
            col_offset[:, None, :].expand_as(index),
        ),
        dim=-1,
    )
    weight = row_weight[:, :, None] * col_weight[:, None, :]
    return Queries(rows, cols, index.flatten(1), offset.flatten(1, 2), weight.flatten(1))


def _neighbours(centre: Tensor, n: int, size: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index, offset and weight of the two neighbours of `centre` = 2Y + 1, each (N, 2)."""
    numerator = centre * n - size  # u = numerator / (2 size)
    low = torch.div(numerator, 2 * size, rounding_mode="floor")
    index = torch.stack((low, low + 1), dim=-1).clamp(0, count - 1)
    distance = numerator[:, None] - 2 * size * index
    other = distance.abs().flip(-1)
    total = other.sum(-1, keepdim=True)
    weight = torch.where(total == 0, 0.5, other / total)
    return index, distance / size, weight
