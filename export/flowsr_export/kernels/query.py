"""Triton kernel from feature tables to the conditioner's first hidden layer."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

__all__ = ["first_product_kernel", "launch", "settings"]

SMALLEST_DOT = 16  # sides of the smallest product of Triton


@triton.jit
def _circle(angle, FAST: tl.constexpr):
    """Cosine and sine; FAST takes the hardware's, after the angle is brought to [-π, π].

    Their largest error there is 2^-20.5 (PTX ISA, cos.approx), a 256th of a half's rounding.
    """
    if FAST:
        turns = angle * 0.15915494309189535
        angle = (turns - tl.floor(turns + 0.5)) * 6.283185307179586
        cosine = tl.inline_asm_elementwise(
            "cos.approx.ftz.f32 $0, $1;", "=r,r", [angle], tl.float32, True, 1
        )
        sine = tl.inline_asm_elementwise(
            "sin.approx.ftz.f32 $0, $1;", "=r,r", [angle], tl.float32, True, 1
        )
    else:
        cosine = tl.cos(angle)
        sine = tl.sin(angle)
    return cosine, sine


@triton.jit
def first_product_kernel(
    features,
    row_index,
    row_offset,
    row_weight,
    col_index,
    col_offset,
    col_weight,
    phase,
    weight,
    bias,
    out,
    queries,
    rows,
    cols,
    height,
    width,
    HALF: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    FAST: tl.constexpr,
):
    """A block of queries; shapes as in `operators.first_product`."""
    first = tl.program_id(0) * BLOCK_Q
    # Queries beyond the last compute the last one again: reads then need no mask.
    query = tl.minimum(first + tl.arange(0, BLOCK_Q), queries - 1)
    row = query // cols % rows
    col = query % cols
    image = query // cols // rows
    n = tl.arange(0, BLOCK_OUT)
    total = tl.zeros((BLOCK_Q, BLOCK_OUT), tl.float32)
    for neighbour in range(4):
        at_row = row * 2 + neighbour // 2
        at_col = col * 2 + neighbour % 2
        i, j = tl.load(row_index + at_row), tl.load(col_index + at_col)
        r_row = tl.load(row_offset + at_row)[:, None]
        r_col = tl.load(col_offset + at_col)[:, None]
        share = (tl.load(row_weight + at_row) * tl.load(col_weight + at_col))[:, None]
        pixel = features + (((image * height + i) * width + j) * (4 * HALF))[:, None]
        for start in range(0, HALF, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            known = k < HALF if HALF % BLOCK_K != 0 else tl.full((BLOCK_K,), True, tl.int1)
            at = pixel + k[None, :]
            mask = known[None, :]
            f_row = tl.load(at + 2 * HALF, mask, 0.0).to(tl.float32)
            f_col = tl.load(at + 3 * HALF, mask, 0.0).to(tl.float32)
            turn = tl.load(phase + k, known, 0.0)[None, :]
            cosine, sine = _circle(f_row * r_row + f_col * r_col + turn, FAST)
            cosine = tl.load(at, mask, 0.0).to(tl.float32) * cosine * share
            sine = tl.load(at + HALF, mask, 0.0).to(tl.float32) * sine * share
            # Cosine and sine of a neighbour are HALF rows of the weight each.
            line = weight + (neighbour * 2 * HALF + k)[:, None] * OUT + n[None, :]
            mask = known[:, None] & (n < OUT)[None, :]
            dtype = weight.dtype.element_ty
            part = tl.load(line, mask, 0.0)
            total = tl.dot(cosine.to(dtype), part, total, input_precision="ieee")
            part = tl.load(line + HALF * OUT, mask, 0.0)
            total = tl.dot(sine.to(dtype), part, total, input_precision="ieee")
    total += tl.load(bias + n, n < OUT, 0.0).to(tl.float32)[None, :]
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    query = first + tl.arange(0, BLOCK_Q)
    mask = (query < queries)[:, None] & (n < OUT)[None, :]
    tl.store(out + query[:, None].to(tl.int64) * OUT + n[None, :], total, mask)


def settings(dtype: torch.dtype, half: int, width: int) -> dict[str, int]:
    """Return constants and options of the kernel that need no spilled register.

    Args:
        dtype: Type of the features and of the product.
        half: Channels of one feature table.
        width: Outputs of the product.
    """
    is_half = dtype != torch.float32
    # The largest power of two in `half`, so that no block sticks out.
    block_k = min(half & -half, 32 if is_half else 16)
    return {
        "HALF": half,
        "OUT": width,
        "BLOCK_Q": 128 if is_half else 32,
        "BLOCK_K": max(SMALLEST_DOT, block_k),
        "BLOCK_OUT": max(SMALLEST_DOT, triton.next_power_of_2(width)),
        "FAST": is_half and isinstance(first_product_kernel, triton.JITFunction),
        "num_warps": 8,
        "num_stages": 2 if is_half else 1,
    }


def launch(
    features: Tensor,
    row: tuple[Tensor, Tensor, Tensor],
    col: tuple[Tensor, Tensor, Tensor],
    phase: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """Run the kernel; arguments as in `operators.first_product`."""
    batch, height, width, channels = features.shape
    rows, cols = row[0].shape[0], col[0].shape[0]
    queries = batch * rows * cols
    out = features.new_empty((queries, weight.shape[1]))
    constants = settings(features.dtype, channels // 4, weight.shape[1])
    grid = (triton.cdiv(queries, constants["BLOCK_Q"]),)
    wrap_triton(first_product_kernel)[grid](
        features.contiguous(),
        *(x.contiguous() for x in (*row, *col)),
        phase.contiguous(),
        weight,
        bias,
        out,
        queries,
        rows,
        cols,
        height,
        width,
        **constants,
    )
    return out
