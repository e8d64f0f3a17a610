"""Triton kernel of one pass through the flow, all its layers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

__all__ = ["flow_kernel", "launch", "settings"]


@triton.jit
def _mapped(x, maps, offsets, layer, BLOCK: tl.constexpr):
    """Map `layer` of the flow applied to (queries, BLOCK) float32."""
    d = tl.arange(0, BLOCK)
    matrix = tl.load(maps + layer * BLOCK * BLOCK + d[:, None] * BLOCK + d[None, :])
    dtype = maps.dtype.element_ty
    if dtype == tl.float16:
        # A patch whose inverse explodes must not become NaN.
        x = tl.clamp(x, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    offset = tl.load(offsets + layer * BLOCK + d)[None, :]
    return tl.dot(x.to(dtype), matrix, input_precision="ieee") + offset


@triton.jit
def flow_kernel(
    z,
    affine,
    affine_bias,
    maps,
    offsets,
    out,
    queries,
    LAYERS: tl.constexpr,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    INVERSE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """A block of queries; shapes as in `operators.flow_pass`."""
    query = tl.program_id(0).to(tl.int64) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = (query < queries)[:, None]
    d = tl.arange(0, BLOCK)
    mask = inside & (d < IN)[None, :]
    x = tl.load(z + query[:, None] * IN + d[None, :], mask, 0.0).to(tl.float32)
    if INVERSE:
        x = _mapped(x, maps, offsets, 0, BLOCK)
    line = affine + query[:, None] * (2 * LAYERS * BLOCK) + d[None, :]
    for step in range(LAYERS):
        layer = LAYERS - 1 - step if INVERSE else step
        logit = tl.load(line + layer * BLOCK, inside, 0.0).to(tl.float32)
        shift = tl.load(line + (LAYERS + layer) * BLOCK, inside, 0.0).to(tl.float32)
        bias = affine_bias + layer * BLOCK + d
        factor = tl.sigmoid(logit + tl.load(bias)[None, :]) + 1e-4
        shift += tl.load(bias + LAYERS * BLOCK)[None, :]
        if INVERSE:
            x = _mapped((x - shift) / factor, maps, offsets, step + 1, BLOCK)
        else:
            x = _mapped(x, maps, offsets, step, BLOCK) * factor + shift
    if not INVERSE:
        x = _mapped(x, maps, offsets, LAYERS, BLOCK)
    if maps.dtype.element_ty == tl.float16:
        x = tl.clamp(x, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    mask = inside & (d < OUT)[None, :]
    tl.store(out + query[:, None] * OUT + d[None, :], x, mask)


def settings(dtype: torch.dtype, block: int) -> dict[str, int]:
    """Return constants and options of the kernel that need no spilled register.

    Args:
        dtype: Type of the maps.
        block: Channels of a layer, filled up.
    """
    is_half = dtype == torch.float16
    return {
        "BLOCK": block,
        "BLOCK_Q": 64 if is_half else max(16, 1024 // block),
        "num_warps": 4,
        "num_stages": 3 if is_half else 1,
    }


def launch(
    z: Tensor,
    affine: Tensor,
    affine_bias: Tensor,
    maps: Tensor,
    offsets: Tensor,
    inverse: bool,
    channels: int,
    dtype: torch.dtype,
) -> Tensor:
    """Run the kernel; arguments as in `operators.flow_pass`."""
    queries = z.shape[0]
    out = z.new_empty((queries, channels), dtype=dtype)
    constants = settings(maps.dtype, maps.shape[1])
    wrap_triton(flow_kernel)[(triton.cdiv(queries, constants["BLOCK_Q"]),)](
        z.contiguous(),
        affine.contiguous(),
        affine_bias,
        maps,
        offsets,
        out,
        queries,
        LAYERS=maps.shape[0] - 1,
        IN=z.shape[1],
        OUT=channels,
        INVERSE=inverse,
        **constants,
    )
    return out
