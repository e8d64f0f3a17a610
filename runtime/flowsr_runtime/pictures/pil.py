"""Read and make images of Pillow in memory."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import PictureError
from flowsr_runtime.pictures.decoding import eight_bit, picture_errors

__all__ = ["from_pil", "to_pil"]

_EIGHT_BIT: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")

_KEPT: Final = ("dpi", "exif", "icc_profile", "xmp")
"""Entries of `Image.info` that still describe a larger image."""


def from_pil(image: Image.Image) -> NDArray[Any]:
    """Return the pixels of an image, as they lie: it is not turned by its EXIF orientation.

    Args:
        image: Image with up to 8 bits per channel, 16-bit gray, or float32 gray in [0, 1]. A
            palette becomes RGB, a transparent color becomes alpha.

    Returns:
        Pixels as in `Picture.pixels`.

    Raises:
        PictureError: If the mode of the image is not supported, or its file is damaged.
    """
    with picture_errors("image"):
        if image.mode in _EIGHT_BIT:
            pixels, mode = eight_bit(image)
            return pixels[..., 0] if mode == "L" else pixels
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)
        if image.mode == "F":
            return np.array(image, dtype=np.float32)
    raise PictureError(f"image is {image.mode}; convert it to RGB")


def to_pil(pixels: NDArray[Any], *, like: Image.Image) -> Image.Image:
    """Return pixels as an image, with the ICC profile and the metadata of another.

    Args:
        pixels: Pixels as `from_pil` returns them.
        like: Image that they were made from.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.info.update({key: like.info[key] for key in _KEPT if key in like.info})
    return image
