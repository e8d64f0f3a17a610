"""Bicubic resizing like MATLAB's imresize or Pillow's, which benchmarks use."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import ShapeError
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import full_scale

__all__ = ["WHITE", "Filter", "matlab_bicubic", "matlab_bicubic_float", "reduced"]

Filter = Literal["matlab", "pillow"]

KERNEL_WIDTH = 4.0  # pixels that Keys' cubic spans
WHITE = full_scale(np.dtype(np.uint8))


def reduced(
    picture: NDArray[np.uint8], size: tuple[int, int], by: Filter = "matlab"
) -> NDArray[np.uint8]:
    """Reduce an original to the input of an evaluation.

    Args:
        picture: RGB image, (H, W, 3) uint8.
        size: Size of the input (h, w).
        by: Whose bicubic filter: MATLAB's or Pillow's, which differ in rounding and borders.

    Returns:
        RGB image, (h, w, 3) uint8.
    """
    if by == "matlab":
        return matlab_bicubic(picture, size)
    image = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(image, np.uint8)


def matlab_bicubic(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image like `imresize(image, [H W], 'bicubic')` in MATLAB.

    Keys' kernel with a = -0.5 (IEEE Trans. ASSP 29, 1981), stretched by the ratio when
    downscaling; borders reflected with the edge pixel repeated; the axis with the smaller ratio
    first; rounded to eight bits after each axis.

    Args:
        picture: RGB image, (h, w, 3) uint8.
        size: Output size (H, W), both at least 1.

    Returns:
        RGB image, (H, W, 3) uint8.

    Raises:
        ShapeError: If `picture` is not (h, w, 3) uint8, or a side of `size` is below 1.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or 0 in picture.shape:
        raise ShapeError(
            f"picture must be (h, w, 3) uint8, got {picture.shape} {picture.dtype}"
        )
    if min(size) < 1:
        raise ShapeError(f"size must be at least 1x1, got {size_text(size)}")
    for axis in _order(picture, size):
        total = _resized(picture, size[axis], axis)
        picture = np.floor(np.clip(total, 0, WHITE) + 0.5).astype(np.uint8)
    return picture


def matlab_bicubic_float(picture: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Resize like `matlab_bicubic` without rounding.

    Args:
        picture: RGB image, (h, w, 3), any units.
        size: Output size (H, W), both at least 1.

    Returns:
        RGB image, (H, W, 3), in the same units.
    """
    values: NDArray[np.float64] = picture.astype(np.float64)
    for axis in _order(picture, size):
        values = _resized(values, size[axis], axis)
    return values


def _order(picture: NDArray[Any], size: tuple[int, int]) -> list[int]:
    """Return the axes, the one with the smaller ratio first."""
    return sorted((0, 1), key=lambda axis: size[axis] / picture.shape[axis])


def _resized(picture: NDArray[Any], target: int, axis: int) -> NDArray[np.float64]:
    """Resize one axis."""
    indices, weights = _taps(picture.shape[axis], target)
    lines = np.moveaxis(picture, axis, 0)
    total = np.zeros((target, *lines.shape[1:]))
    for index, weight in zip(indices.T, weights.T, strict=True):
        total += weight[:, None, None] * lines[index]
    return np.ascontiguousarray(np.moveaxis(total, 0, axis))


def _taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the input pixels of each output pixel and their weights, (target, taps) each."""
    scale = target / source
    shrink = min(scale, 1.0)
    width = KERNEL_WIDTH / shrink
    centers = (np.arange(target) + 0.5) / scale - 0.5
    first = np.floor(centers - width / 2).astype(np.intp)
    indices = first[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = _cubic(shrink * (centers[:, None] - indices))
    weights /= weights.sum(1, keepdims=True)
    reached = np.flatnonzero(weights.any(0))
    mirrored = np.concatenate((np.arange(source), np.arange(source)[::-1]))
    return mirrored[indices[:, reached] % len(mirrored)], weights[:, reached]


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
