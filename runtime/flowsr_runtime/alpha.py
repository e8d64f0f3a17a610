"""Alpha on its way around the model: resized apart, and kept from leaving fringes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.depth import depth_of, to_depth
from flowsr_runtime.errors import MemoryBudgetError

__all__ = ["enlarged_alpha", "filled"]


def enlarged_alpha(alpha: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize alpha by bilinear interpolation with half-pixel centres, in float32.

    Args:
        alpha: Alpha, (h, w) uint8, uint16, or float32 in [0, 1].
        size: Size (H, W) of the result, at least (h, w).

    Returns:
        Alpha, (H, W) of the same dtype, rounded to the nearest.

    Raises:
        MemoryBudgetError: If it does not fit in memory.
    """
    result: NDArray[Any]
    if alpha.shape == size:
        result = alpha.copy()
        return result
    try:
        plane = Image.fromarray(np.ascontiguousarray(to_depth(alpha, "float")))
        large = plane.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        result = to_depth(np.array(large), depth_of(alpha))
        return result
    except MemoryError as error:
        raise MemoryBudgetError(
            f"an alpha channel of {size[0]}x{size[1]} does not fit in memory"
        ) from error


def filled(rgb: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Give fully transparent pixels the colour of what is visible near them.

    Their own colours are arbitrary, and a model would let them bleed into visible edges.
    Colours are premultiplied by alpha and averaged over blocks of 2x2, 4x4, 8x8 … pixels from
    the top left corner; a pixel of alpha 0 takes the average, divided by that of alpha, of the
    smallest block that holds anything visible. Every other pixel keeps its colour.

    Args:
        rgb: Colours, (h, w, 3) uint8, uint16, or float32 in [0, 1].
        alpha: Alpha, (h, w) of the same dtype.

    Returns:
        Colours, (h, w, 3) of the same dtype: `rgb` itself if nothing or all is transparent.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    weights = to_depth(alpha, "float")
    colours = to_depth(rgb, "float") * weights[..., None]
    result: NDArray[Any] = rgb.copy()
    result[hidden] = to_depth(_pulled(colours, weights), depth_of(rgb))[hidden]
    return result


def _pulled(colours: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean colour of the smallest block around each pixel that has weight.

    Args:
        colours: Premultiplied colours, (h, w, 3).
        weights: Alpha, (h, w), not 0 everywhere.

    Returns:
        Colours, (h, w, 3) in [0, 1].
    """
    seen = weights > 0
    means = colours / np.where(seen, weights, np.float32(1)).astype(np.float32)[..., None]
    np.minimum(means, np.float32(1), out=means)
    if seen.all():
        return means
    coarse = _pulled(_halved(colours), _halved(weights[..., None])[..., 0])
    doubled = coarse.repeat(2, axis=0).repeat(2, axis=1)[: seen.shape[0], : seen.shape[1]]
    return np.where(seen[..., None], means, doubled)


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of 2x2 blocks over four; what lies beyond the edge counts as 0."""
    rows, columns = values.shape[0] % 2, values.shape[1] % 2
    even = np.pad(values, ((0, rows), (0, columns), (0, 0)))
    tall = even[0::2] + even[1::2]
    mean: NDArray[np.float32] = (tall[:, 0::2] + tall[:, 1::2]) * np.float32(0.25)
    return mean
