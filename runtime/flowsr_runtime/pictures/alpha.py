"""Resize alpha, and fill hidden pixels to prevent fringes."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.errors import MemoryBudgetError
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import depth_of, full_scale, to_depth

__all__ = ["fill_hidden", "flatten", "resize_alpha"]

_BAND: Final = 256
"""Rows in float32 at a time; even, because a band holds whole 2x2 blocks."""


def resize_alpha(alpha: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize alpha by bilinear interpolation with half-pixel centers.

    Rows first, then columns; each sum of two is in float64, rounded to float32.

    Args:
        alpha: Alpha, (h, w) uint8, uint16, or float32 in [0, 1].
        size: Size (H, W) of the result, at least (h, w).

    Returns:
        Alpha, (H, W) of the same dtype, rounded to the nearest.

    Raises:
        MemoryBudgetError: If it does not fit in memory.
    """
    try:
        result = np.empty(size, dtype=alpha.dtype)
        if alpha.shape == size:
            result[...] = alpha
            return result
        left, right, across = _neighbors(alpha.shape[1], size[1])
        above, below, down = _neighbors(alpha.shape[0], size[0])
        wide = np.empty((alpha.shape[0], size[1]), dtype=np.float32)
        for top in range(0, alpha.shape[0], _BAND):
            rows = to_depth(alpha[top : top + _BAND], "float")
            wide[top : top + _BAND] = rows[:, left] * (1 - across) + rows[:, right] * across
        for top in range(0, size[0], _BAND):
            part = slice(top, top + _BAND)
            share = down[part, None]
            band = wide[above[part]] * (1 - share) + wide[below[part]] * share
            result[part] = to_depth(band.astype(np.float32), depth_of(alpha))
        return result
    except MemoryError as error:
        channel = f"an alpha channel of {size_text(size)}"
        raise MemoryBudgetError(f"{channel} does not fit in memory") from error


def fill_hidden(rgb: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Give fully transparent pixels the color of the visible pixels near them.

    Their own colors are arbitrary, and a model lets them bleed into visible edges. Colors are
    premultiplied by alpha and averaged over blocks of 2x2, 4x4, 8x8 … pixels from the top left
    corner. A pixel of alpha 0 takes the average color, divided by the average alpha, of the
    smallest block with a visible pixel; all other pixels keep their color.

    Args:
        rgb: Colors, (h, w, 3) uint8, uint16, or float32 in [0, 1].
        alpha: Alpha, (h, w) of the same dtype.

    Returns:
        Colors, (h, w, 3) of the same dtype: `rgb` itself if nothing or all is transparent.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    coarse = _pulled(*_premultiplied_halves(rgb, alpha))
    result: NDArray[Any] = rgb.copy()
    for top in range(0, len(rgb), _BAND):
        rows = slice(top, top + _BAND)
        near = to_depth(coarse[top // 2 : (top + _BAND) // 2], depth_of(rgb))
        result[rows][hidden[rows]] = _doubled(near, hidden[rows].shape)[hidden[rows]]
    return result


def flatten(pixels: NDArray[Any], color: tuple[int, int, int]) -> NDArray[Any]:
    """Lay a picture over a color, so that it has no alpha.

    Args:
        pixels: Gray and alpha (h, w, 2), or RGBA (h, w, 4); uint8, uint16, or float32 in
            [0, 1].
        color: Red, green and blue, 0 to 255.

    Returns:
        Pixels of the same dtype, (h, w, 3); (h, w) for gray over gray.
    """
    is_gray = pixels.shape[2] == 2 and len(set(color)) == 1
    behind = np.array(color[:1] if is_gray else color, dtype=np.float64) / 255
    result = np.empty((*pixels.shape[:2], len(behind)), dtype=pixels.dtype)
    most = full_scale(pixels.dtype)
    half = 0 if pixels.dtype == np.float32 else 0.5
    for top in range(0, len(pixels), _BAND):
        part = pixels[top : top + _BAND].astype(np.float64) / most
        share = part[..., -1:]
        result[top : top + _BAND] = (
            part[..., :-1] * share + behind * (1 - share)
        ) * most + half
    return result[..., 0] if is_gray else result


def _neighbors(
    source: int, target: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return the two input pixels around each output pixel, and the weight of the second.

    The indices and the weights from 0 to 1 are (target,) each.
    """
    centers = (np.arange(target) + 0.5) * source / target - 0.5
    first = np.clip(np.floor(centers), 0, source - 1).astype(np.intp)
    share: NDArray[np.float64] = np.clip(centers - first, 0, None)
    return first, np.minimum(first + 1, source - 1), share


def _premultiplied_halves(
    rgb: NDArray[Any], alpha: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return 2x2 means of the premultiplied colors, and of alpha."""
    colors, weights = [], []
    for top in range(0, len(rgb), _BAND):
        weight = to_depth(alpha[top : top + _BAND], "float")[..., None]
        weights.append(_halved(weight))
        colors.append(_halved(to_depth(rgb[top : top + _BAND], "float") * weight))
    return np.concatenate(colors), np.concatenate(weights)


def _pulled(colors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean color of the smallest block with weight around each pixel.

    From premultiplied colors, (h, w, 3), and alpha, (h, w, 1), not 0 everywhere.
    """
    visible = weights > 0
    means: NDArray[np.float32] = np.divide(
        colors, np.maximum(weights, ~visible), dtype=np.float32
    )
    np.minimum(means, np.float32(1), out=means)
    if visible.all():
        return means
    coarse = _doubled(_pulled(_halved(colors), _halved(weights)), visible.shape)
    np.copyto(means, coarse, where=~visible)
    return means


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means of 2x2 blocks; pixels beyond the edge count as 0."""
    rows, columns = values.shape[0] % 2, values.shape[1] % 2
    even = np.pad(values, ((0, rows), (0, columns), (0, 0)))
    tall = even[0::2] + even[1::2]
    mean: NDArray[np.float32] = (tall[:, 0::2] + tall[:, 1::2]) * np.float32(0.25)
    return mean


def _doubled(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return each pixel as 2x2, cropped to the rows and columns of `shape`."""
    return values.repeat(2, axis=0).repeat(2, axis=1)[: shape[0], : shape[1]]
