"""Triton kernel that resizes an image by two taps an axis, cut into patches."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

__all__ = ["launch", "resize_kernel", "settings"]


@triton.jit
def resize_kernel(
    image,
    row_index,
    row_weight,
    col_index,
    col_weight,
    out,
    count,
    rows,
    cols,
    height,
    width,
    CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A block of elements of the result, in its order; as `operators.resize_patches`."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = element < count
    query = element // (CHANNELS * PATCH * PATCH)
    channel = element % (CHANNELS * PATCH * PATCH)
    plane = query // cols // rows * CHANNELS + channel // (PATCH * PATCH)
    y = channel // PATCH % PATCH * rows + query // cols % rows
    x = channel % PATCH * cols + query % cols
    left = tl.load(col_index + x, inside, 0)
    right = tl.load(col_index + PATCH * cols + x, inside, 0)
    a = tl.load(col_weight + x, inside, 0.0)
    b = tl.load(col_weight + PATCH * cols + x, inside, 0.0)
    total = tl.zeros((BLOCK,), tl.float32)
    for tap in tl.static_range(2):
        at = tap * PATCH * rows + y
        line = image + (plane * height + tl.load(row_index + at, inside, 0)) * width
        value = tl.load(line + left, inside, 0.0) * a + tl.load(line + right, inside, 0.0) * b
        total += value * tl.load(row_weight + at, inside, 0.0)
    tl.store(out + element, total, inside)


def settings() -> dict[str, int]:
    """Return constants and options of the kernel."""
    return {"BLOCK": 512, "num_warps": 4}


def launch(
    image: Tensor,
    row_index: Tensor,
    row_weight: Tensor,
    col_index: Tensor,
    col_weight: Tensor,
    patch: int,
) -> Tensor:
    """Run the kernel; arguments as in `operators.resize_patches`."""
    batch, channels, height, width = image.shape
    rows, cols = (index.shape[1] // patch for index in (row_index, col_index))
    out = image.new_empty((batch * rows * cols, channels * patch * patch))
    count = batch * rows * cols * channels * patch * patch
    constants = settings()
    wrap_triton(resize_kernel)[(triton.cdiv(count, constants["BLOCK"]),)](
        image.contiguous(),
        *(x.contiguous() for x in (row_index, row_weight, col_index, col_weight)),
        out,
        count,
        rows,
        cols,
        height,
        width,
        CHANNELS=channels,
        PATCH=patch,
        **constants,
    )
    return out
