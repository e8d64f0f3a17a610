"""Triton kernels of SRFlow's couplings: the hidden layer of their nets, and their maps."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

__all__ = [
    "hidden_kernel",
    "launch_hidden",
    "launch_map",
    "map_kernel",
    "settings",
]

SMALLEST_DOT = 16  # sides of the smallest product of Triton


@triton.jit
def hidden_kernel(
    own,
    features,
    weight,
    bias,
    out,
    cells,
    stride,
    column,
    WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A block of cells; shapes as in `operators.coupling_hidden`."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = (cell < cells)[:, None]
    n = tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = inside & (k < WIDTH)[None, :]
        x = tl.load(own + cell[:, None] * WIDTH + k[None, :], mask, 0.0)
        f = tl.load(features + cell[:, None] * stride + column + k[None, :], mask, 0.0)
        x = tl.maximum(x + f.to(tl.float32), 0.0, propagate_nan=tl.PropagateNan.ALL)
        known = (k < WIDTH)[:, None] & (n < WIDTH)[None, :]
        part = tl.load(weight + k[:, None] * WIDTH + n[None, :], known, 0.0)
        total = tl.dot(x, part, total, input_precision="ieee")
    total += tl.load(bias + n, n < WIDTH, 0.0)[None, :]
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + cell[:, None] * WIDTH + n[None, :], total, inside & (n < WIDTH)[None, :])


@triton.jit
def map_kernel(
    x,
    net,
    weight,
    bias,
    affine,
    affine_bias,
    out,
    cells,
    stride,
    column,
    WIDTH: tl.constexpr,
    INVERSE: tl.constexpr,
    HAS_NET: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A block of cells; shapes as in `operators.coupling_map`."""
    cell = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = (cell < cells)[:, None]
    line = affine + cell[:, None] * stride + column
    n = tl.arange(0, BLOCK_N)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        mask = inside & (k < WIDTH)[None, :]
        y = tl.load(x + cell[:, None] * WIDTH + k[None, :], mask, 0.0)
        if HAS_NET:  # shifts of the second half of the channels, then its logits
            second = mask & (k >= WIDTH // 2)[None, :]
            at = net + cell[:, None] * WIDTH + k[None, :]
            shift = tl.load(at - WIDTH // 2, second, 0.0)
            factor = tl.sigmoid(tl.load(at, second, 0.0)) + 1e-4
            changed = y / factor - shift if INVERSE else (y + shift) * factor
            y = tl.where((k >= WIDTH // 2)[None, :], changed, y)
        if INVERSE:
            factor = tl.load(line + WIDTH + k[None, :], mask, 0.0).to(tl.float32)
            factor += tl.load(affine_bias + column + WIDTH + k, k < WIDTH, 0.0)[None, :]
            shift = tl.load(line + k[None, :], mask, 0.0).to(tl.float32)
            shift += tl.load(affine_bias + column + k, k < WIDTH, 0.0)[None, :]
            y = y / (tl.sigmoid(factor) + 1e-4) - shift
        known = (k < WIDTH)[:, None] & (n < WIDTH)[None, :]
        part = tl.load(weight + k[:, None] * WIDTH + n[None, :], known, 0.0)
        total = tl.dot(y, part, total, input_precision="ieee")
    total += tl.load(bias + n, n < WIDTH, 0.0)[None, :]
    mask = inside & (n < WIDTH)[None, :]
    if not INVERSE:
        shift = tl.load(line + n[None, :], mask, 0.0).to(tl.float32)
        shift += tl.load(affine_bias + column + n, n < WIDTH, 0.0)[None, :]
        factor = tl.load(line + WIDTH + n[None, :], mask, 0.0).to(tl.float32)
        factor += tl.load(affine_bias + column + WIDTH + n, n < WIDTH, 0.0)[None, :]
        total = (total + shift) * (tl.sigmoid(factor) + 1e-4)
    tl.store(out + cell[:, None] * WIDTH + n[None, :], total, mask)


def settings(width: int) -> dict[str, int]:
    """Return constants and options of both kernels that need no spilled register.

    Args:
        width: Channels of the product.
    """
    block = max(SMALLEST_DOT, triton.next_power_of_2(width))
    return {
        "WIDTH": width,
        "BLOCK_M": 64 if block <= 64 else 32,
        "BLOCK_K": SMALLEST_DOT,
        "BLOCK_N": block,
        "num_warps": 4 if block <= 32 else 8,
        "num_stages": 1,
    }


def launch_hidden(
    own: Tensor, features: Tensor, column: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """Run the kernel; arguments as in `operators.coupling_hidden`."""
    cells, width = own.shape
    out = own.new_empty((cells, width))
    constants = settings(width)
    features = features.contiguous()
    wrap_triton(hidden_kernel)[(triton.cdiv(cells, constants["BLOCK_M"]),)](
        own.contiguous(),
        features,
        weight,
        bias,
        out,
        cells,
        features.shape[1],
        column,
        **constants,
    )
    return out


def launch_map(
    x: Tensor,
    net: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    affine: Tensor,
    affine_bias: Tensor,
    column: int,
    inverse: bool,
) -> Tensor:
    """Run the kernel; arguments as in `operators.coupling_map`."""
    cells, width = x.shape
    out = x.new_empty((cells, width), dtype=torch.float32)
    constants = settings(width)
    affine, x = affine.contiguous(), x.contiguous()
    wrap_triton(map_kernel)[(triton.cdiv(cells, constants["BLOCK_M"]),)](
        x,
        x if net is None else net.contiguous(),
        weight,
        bias,
        affine,
        affine_bias,
        out,
        cells,
        affine.shape[1],
        column,
        INVERSE=inverse,
        HAS_NET=net is not None,
        **constants,
    )
    return out
