"""Check, pad, resample and store pixels, with one rounding."""

from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import MemoryBudgetError, ShapeError, UsageError
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import full_scale

__all__ = [
    "allocate",
    "check_image",
    "full_range",
    "luma",
    "padded",
    "planes",
    "resampled",
    "store",
]

PixelT = TypeVar("PixelT", np.uint8, np.uint16, np.float32)

_DTYPES: Final = (np.uint8, np.uint16, np.float32)

_ROWS: Final = 32
"""Rows that are converted at once, so that they stay in the processor's cache."""

_LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601), as in Pillow."""


def check_image(image: object, *, clamp: bool, truncate: bool, io: str = "float32") -> None:
    """Check an image, before slow work.

    Args:
        image: Image, (h, w) or (h, w, 1 to 4), uint8, uint16, or float32 in [0, 1].
        clamp: Whether the result is clamped; an integer result must be.
        truncate: Whether values are truncated; only for uint8.
        io: Type of the graph's images; see `Manifest.io`.

    Raises:
        ShapeError: If `image` has another shape or dtype, also than the graph or `truncate`
            needs.
        UsageError: If a value is out of range, or another argument excludes its dtype.
    """
    if not isinstance(image, np.ndarray) or image.dtype not in _DTYPES:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(f"image must be a uint8, uint16 or float32 array, got {kind}")
    if image.ndim not in (2, 3) or 0 in image.shape or image.shape[2:] > (4,):
        raise ShapeError(f"image must be (h, w) or (h, w, 1 to 4), got {image.shape}")
    if io == "uint8" and image.dtype != np.uint8:
        raise ShapeError(
            f"this bundle's graph takes uint8 images, got {image.dtype}; give uint8, or export "
            "a bundle with io float32"
        )
    if io == "uint8" and truncate:
        raise UsageError(
            "truncate=True needs a graph of float32 images, this one rounds by itself; export "
            "a bundle with io float32",
            option="truncate",
        )
    if truncate and image.dtype != np.uint8:
        raise ShapeError(f"truncate=True needs a uint8 image, got {image.dtype}")
    if image.dtype != np.float32:
        if not clamp:
            message = f"clamp=False needs a float32 image, got {image.dtype}"
            raise UsageError(message, option="clamp")
        return
    least, most = image.min(), image.max()
    if not (least >= 0 and most <= 1):
        raise UsageError(f"float32 image must lie in [0, 1], got values from {least} to {most}")


def padded(image: NDArray[PixelT], multiple: int) -> NDArray[PixelT]:
    """Pad an image by reflection at the bottom and on the right.

    Args:
        image: Image, (h, w, 3).
        multiple: Divisor of the sides of the result.

    Returns:
        The image itself if nothing is missing, or a larger one; a side of 1 repeats its pixel.
    """
    rows, columns = (-(-side // multiple) * multiple for side in image.shape[:2])
    right = (rows - image.shape[0], columns - image.shape[1])
    if right == (0, 0):
        return image
    return np.pad(image, ((0, right[0]), (0, right[1]), (0, 0)), mode="reflect")


def planes(crop: NDArray[Any], io: str = "float32") -> NDArray[Any]:
    """Return pixels in the layout and type of the graph's input.

    Args:
        crop: Pixels, (h, w, 3) uint8, uint16 or float32; uint8 for a graph of uint8.
        io: Type of the graph's images; see `Manifest.io`.

    Returns:
        Pixels, (1, 3, h, w), float32 in [0, 1] or uint8.
    """
    result: NDArray[Any] = np.array(crop.transpose(2, 0, 1)[None], dtype=io, order="C")
    if crop.dtype != np.float32 and io == "float32":
        result /= np.float32(full_scale(crop.dtype))
    return result


def full_range(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return pixels in units of full range: uint8 divided by 255, float32 unchanged."""
    if values.dtype != np.uint8:
        return values
    scaled: NDArray[np.float32] = values.astype(np.float32) / np.float32(255)
    return scaled


def allocate(shape: tuple[int, int, int], dtype: np.dtype[PixelT]) -> NDArray[PixelT]:
    """Return an uninitialized array.

    Raises:
        MemoryBudgetError: If it does not fit in memory.
    """
    try:
        return np.empty(shape, dtype=dtype)
    except MemoryError as error:
        size = size_text(shape[:2])
        raise MemoryBudgetError(f"an output of {size} does not fit in memory") from error


def resampled(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resample an image by Pillow's Lanczos filter in float32, channel by channel.

    Args:
        values: Image, (rows, columns, 3); any range.
        size: Size (H, W) of the result.

    Returns:
        Image, (H, W, 3), which may overshoot the range of `values` at edges.

    Raises:
        MemoryBudgetError: If it does not fit in memory.
    """
    result = allocate((*size, 3), np.dtype(np.float32))
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(values[..., channel]))
        large = plane.resize((size[1], size[0]), Image.Resampling.LANCZOS)
        result[..., channel] = np.asarray(large)
    return result


def store(values: NDArray[Any], result: NDArray[Any], *, clamp: bool, truncate: bool) -> None:
    """Clamp pixels, convert them to the channels and depth of `result`, and store them.

    Args:
        values: Pixels in units of full range, (rows, columns, 3) float32, which are
            overwritten; or uint8, which are final.
        result: Destination, (rows, columns, 3), or 1 for gray; uint8, uint16 or float32.
        clamp: Clamp values to [0, 1].
        truncate: Store floor(255 x) rather than floor(255 x + 1/2).
    """
    if result.shape[2] == 1:
        values = luma(full_range(values))
    if values.dtype == np.uint8:
        result[...] = values
        return
    for top in range(0, len(values), _ROWS):
        rows, into = values[top : top + _ROWS], result[top : top + _ROWS]
        if clamp:
            np.clip(rows, 0.0, 1.0, out=rows)
        if result.dtype != np.float32:
            rows *= np.float32(full_scale(result.dtype))
            if not truncate:
                rows += np.float32(0.5)
        for channel in range(into.shape[2]):  # a third of the time of all at once
            into[..., channel] = rows[..., channel]  # to integers this drops the fraction


def luma(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the gray of colors; gray colors stay exact.

    Args:
        rgb: Colors, (h, w, 3), any range.

    Returns:
        Gray, (h, w, 1), in the same units.
    """
    red = rgb[..., :1]
    gray: NDArray[np.float32] = (rgb[..., 1:2] - red) * np.float32(_LUMA[1])
    gray += (rgb[..., 2:3] - red) * np.float32(_LUMA[2])
    gray += red
    return gray
