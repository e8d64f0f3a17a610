"""Operators of SRFlow's couplings: Triton on CUDA, their PyTorch definition elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import triton_op
from torch.nn import functional as F

__all__ = [
    "coupling_hidden",
    "coupling_map",
    "define_coupling_hidden",
    "define_coupling_map",
]

EPSILON = 1e-4  # added to a factor, which the inverse divides by


@triton_op("flowsr::coupling_hidden", mutates_args=())
def coupling_hidden(
    own: Tensor, features: Tensor, column: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """The second layer of a coupling's net, with the rectifiers before and after it.

    Args:
        own: The first layer on the coupling's own channels, (M, K) float32.
        features: That on the features, of several couplings, (M, couplings · K).
        column: Index of this coupling's first column in `features`.
        weight: Transposed weight of the second layer, (K, K) float32.
        bias: Its bias, (K,) float32.

    Returns:
        Rectified outputs, (M, K) float32.
    """
    if not own.is_cuda:
        return define_coupling_hidden(own, features, column, weight, bias)
    from flowsr_export.kernels import coupling

    return coupling.launch_hidden(own, features, column, weight, bias)


def define_coupling_hidden(
    own: Tensor, features: Tensor, column: int, weight: Tensor, bias: Tensor
) -> Tensor:
    """`coupling_hidden` in PyTorch."""
    part = features[:, column : column + own.shape[1]].float()
    return F.relu(F.relu(own + part) @ weight + bias)


@triton_op("flowsr::coupling_map", mutates_args=())
def coupling_map(
    x: Tensor,
    net: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    affine: Tensor,
    affine_bias: Tensor,
    column: int,
    inverse: bool,
) -> Tensor:
    """What lies between the nets of two couplings, float32.

    Encoding, the second half of the channels is shifted and scaled by the last net, then all
    are mapped, shifted and scaled by the features. Decoding, the same is undone: the second
    half is divided and shifted, all are divided and shifted, then mapped.

    Args:
        x: Channels, (M, C) float32.
        net: Shifts of the second half, then logits of its factors, (M, C) float32; None before
            the first coupling.
        weight: Transposed map, (C, C) float32.
        bias: Its bias, (C,) float32.
        affine: Shifts and logits by the features, of several couplings, (M, couplings · 2 · C).
        affine_bias: Their bias, (couplings · 2 · C,) float32.
        column: Index of this coupling's first column in `affine`.
        inverse: Whether to decode.

    Returns:
        Channels, (M, C) float32.
    """
    args = (x, net, weight, bias, affine, affine_bias, column, inverse)
    if not x.is_cuda:
        return define_coupling_map(*args)
    from flowsr_export.kernels import coupling

    return coupling.launch_map(*args)


def define_coupling_map(
    x: Tensor,
    net: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    affine: Tensor,
    affine_bias: Tensor,
    column: int,
    inverse: bool,
) -> Tensor:
    """`coupling_map` in PyTorch."""
    width = x.shape[1]
    part = affine[:, column : column + 2 * width].float()
    shift, logit = (part + affine_bias[column : column + 2 * width]).chunk(2, dim=1)
    factor = torch.sigmoid(logit) + EPSILON
    if net is not None:
        first, second = x.chunk(2, dim=1)
        own_shift, own_logit = net.chunk(2, dim=1)
        own_factor = torch.sigmoid(own_logit) + EPSILON
        if inverse:
            second = second / own_factor - own_shift
        else:
            second = (second + own_shift) * own_factor
        x = torch.cat((first, second), dim=1)
    if inverse:
        return (x / factor - shift) @ weight + bias
    return (x @ weight + bias + shift) * factor
