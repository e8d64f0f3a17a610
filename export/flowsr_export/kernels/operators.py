"""Operators of the fused query stage: Triton on CUDA, their PyTorch definition elsewhere.

`torch.export` keeps an operator as one node. Inductor opens it: on CUDA it compiles the Triton
kernel, on a CPU the definition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op
from torch.nn import functional as F

__all__ = [
    "define_first_product",
    "define_flow_pass",
    "define_resize_patches",
    "first_product",
    "flow_pass",
    "resize_patches",
]

LARGEST_HALF = 65504.0  # largest finite float16


@triton_op("flowsr::first_product", mutates_args=())
def first_product(
    features: Tensor,
    row_index: Tensor,
    row_offset: Tensor,
    row_weight: Tensor,
    col_index: Tensor,
    col_offset: Tensor,
    col_weight: Tensor,
    phase: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """Fourier features of every query and the conditioner's first layer.

    Args:
        features: Coefficients of cosine and sine and frequencies of rows and columns, π
            factored in, (B, h, w, 4 · hidden / 2).
        row_index: Rows of pixels that each row of queries reads, (rows, 2) int64.
        row_offset: Distances to them in low-resolution pixels, (rows, 2) float32.
        row_weight: Their weights, (rows, 2) float32.
        col_index: The same of the columns, (cols, 2) int64.
        col_offset: (cols, 2) float32.
        col_weight: (cols, 2) float32.
        phase: Phase that all queries share, (hidden / 2,) float32.
        weight: First layer of the conditioner, (4 · hidden, C) in the type of `features`.
        bias: Its bias, (C,).

    Returns:
        Rectified outputs, (B · rows · cols, C) in the type of `features`.
    """
    row, col = (row_index, row_offset, row_weight), (col_index, col_offset, col_weight)
    if not features.is_cuda:
        return define_first_product(features, row, col, phase, weight, bias)
    from flowsr_export.kernels import query

    return query.launch(features, row, col, phase, weight, bias)


def define_first_product(
    features: Tensor,
    row: tuple[Tensor, Tensor, Tensor],
    col: tuple[Tensor, Tensor, Tensor],
    phase: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """`first_product` in PyTorch, its axes as tuples of index, offset and weight."""
    (i, r_row, w_row), (j, r_col, w_col) = row, col
    width, hidden = features.shape[2], features.shape[3] // 2
    index = (i[:, None, :, None] * width + j[None, :, None, :]).reshape(-1)
    share = (w_row[:, None, :, None] * w_col[None, :, None, :]).reshape(-1, 1)
    read = features.flatten(1, 2).index_select(1, index).float()
    cosine, sine, f_row, f_col = read.chunk(4, dim=2)
    grid = (i.shape[0], j.shape[0], 2, 2)
    r_row, r_col = (
        r.expand(grid).reshape(-1, 1) for r in (r_row[:, None, :, None], r_col[:, None, :])
    )
    angle = f_row * r_row + f_col * r_col + phase
    read = torch.cat((cosine * torch.cos(angle), sine * torch.sin(angle)), dim=2) * share
    x = read.reshape(-1, 4 * hidden).to(features.dtype)
    # The sums of a product in half are float32, as on a GPU.
    return F.relu(x.float() @ weight.float() + bias.float()).to(features.dtype)


@triton_op("flowsr::flow_pass", mutates_args=())
def flow_pass(
    z: Tensor,
    affine: Tensor,
    affine_bias: Tensor,
    maps: Tensor,
    offsets: Tensor,
    inverse: bool,
    channels: int,
    dtype: torch.dtype,
) -> Tensor:
    """A pass through all layers of the flow, float32 between its products.

    Args:
        z: Residuals or latents, (M, C), C at most P.
        affine: Logits of the factors of all L layers, then all shifts, without their bias,
            (M, 2 · L · P). P is D filled up to a power of two with zeros.
        affine_bias: Their bias, (2 · L · P,) float32.
        maps: Transposed maps in the order in which they are applied, (L + 1, P, P).
        offsets: Their biases, (L + 1, P) float32.
        inverse: Decode: the first map comes before the layers, which run backwards.
        channels: Channels of the result, at most P.
        dtype: Type of the result.

    Returns:
        Latents or residuals, (M, channels) in `dtype`.
    """
    args = (z, affine, affine_bias, maps, offsets, inverse, channels, dtype)
    if not z.is_cuda:
        return define_flow_pass(*args)
    from flowsr_export.kernels import flow

    return flow.launch(*args)


def define_flow_pass(
    z: Tensor,
    affine: Tensor,
    affine_bias: Tensor,
    maps: Tensor,
    offsets: Tensor,
    inverse: bool,
    channels: int,
    dtype: torch.dtype,
) -> Tensor:
    """`flow_pass` in PyTorch."""
    layers, block = maps.shape[0] - 1, maps.shape[1]
    x = F.pad(z.float(), (0, block - z.shape[1]))
    if inverse:
        x = _mapped(x, maps[0], offsets[0])
    for step in range(layers):
        layer = layers - 1 - step if inverse else step
        logit, shift = (
            affine[:, at : at + block].float() + affine_bias[at : at + block]
            for at in (layer * block, (layers + layer) * block)
        )
        factor = torch.sigmoid(logit) + 1e-4
        if inverse:
            x = _mapped((x - shift) / factor, maps[step + 1], offsets[step + 1])
        else:
            x = _mapped(x, maps[step], offsets[step]) * factor + shift
    if not inverse:
        x = _mapped(x, maps[layers], offsets[layers])
    return _finite(x[:, :channels], maps.dtype).to(dtype)


def _mapped(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Map (M, P) float32 with operands in the type of `matrix` and float32 sums."""
    x = _finite(x, matrix.dtype).to(matrix.dtype)
    return x.float() @ matrix.float() + offset


def _finite(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Keep a patch that explodes in float16 from becoming NaN."""
    return x.clamp(-LARGEST_HALF, LARGEST_HALF) if dtype == torch.float16 else x


@triton_op("flowsr::resize_patches", mutates_args=())
def resize_patches(
    image: Tensor,
    row_index: Tensor,
    row_weight: Tensor,
    col_index: Tensor,
    col_weight: Tensor,
    patch: int,
) -> Tensor:
    """Resize an image by two taps an axis and cut it into patches.

    Args:
        image: Images, (B, C, h, w) float32.
        row_index: The two rows that each output row reads, (2, p · rows) int64, ordered as
            `Axis.pixels`.
        row_weight: Their weights, (2, p · rows) float32.
        col_index: The same of the columns, (2, p · cols) int64.
        col_weight: (2, p · cols) float32.
        patch: Patch side p.

    Returns:
        A row for each patch, (B · rows · cols, C · p · p) float32.
    """
    args = (image, row_index, row_weight, col_index, col_weight, patch)
    if not image.is_cuda:
        return define_resize_patches(*args)
    from flowsr_export.kernels import resize

    return resize.launch(*args)


def define_resize_patches(
    image: Tensor,
    row_index: Tensor,
    row_weight: Tensor,
    col_index: Tensor,
    col_weight: Tensor,
    patch: int,
) -> Tensor:
    """`resize_patches` in PyTorch."""
    x = _two_taps(image, row_index, row_weight.unsqueeze(-1), 2)
    x = _two_taps(x, col_index, col_weight, 3)
    batch, channels = image.shape[:2]
    rows, cols = row_index.shape[1] // patch, col_index.shape[1] // patch
    x = x.reshape(batch, channels, patch, rows, patch, cols)
    return x.permute(0, 3, 5, 1, 2, 4).reshape(batch * rows * cols, -1)


def _two_taps(x: Tensor, index: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Read dimension `dim` at both taps, weighted."""
    low, high = (x.index_select(dim, index[k]) * weight[k] for k in range(2))
    return low + high
