"""Decode picture files to upright pictures."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from flowsr_runtime.errors import MemoryBudgetError, PictureError
from flowsr_runtime.pictures.cmyk import rgb_from_cmyk
from flowsr_runtime.pictures.codecs.high_bit_depth import (
    avif_bit_depth,
    bits_of,
    deep_pixels,
    is_read_whole,
)
from flowsr_runtime.pictures.codecs.png import (
    chunks_of,
    without_animation,
    without_large_chunks,
)
from flowsr_runtime.pictures.codecs.soundness import (
    check_png,
    check_scans,
    completions,
    page_of,
)
from flowsr_runtime.pictures.codecs.tiff import read_by_tifffile
from flowsr_runtime.pictures.formats import Mode, kind_of, open_image
from flowsr_runtime.pictures.metadata import (
    Source,
    orientation_of,
    read_metadata,
    sound_exif,
)
from flowsr_runtime.pictures.picture import Picture

__all__ = ["decode", "eight_bit", "picture_errors", "upright"]

logger = logging.getLogger(__name__)

_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "I;16", "I;16B", "I", "F")


def decode(data: bytes, name: str, max_pixels: int, *, frames: bool = False) -> Picture:
    """Decode a picture file.

    Args:
        data: The file's content.
        name: Name of the file in messages.
        max_pixels: Largest number of pixels.
        frames: Do not log that only the first frame is read, as the caller reads the others.

    Returns:
        The picture, the first frame of an animation.

    Raises:
        PictureError: If it is damaged, too large, or of an unsupported kind.
        MemoryBudgetError: If it does not fit in memory.
    """
    with picture_errors(name, max_pixels):
        pixels, mode, source = _read(data, name, max_pixels, frames=frames)
        if pixels.ndim != 3 or pixels.shape[2] != len(mode) or 0 in pixels.shape:
            raise PictureError(f"{name} is damaged: {mode} has pixels of shape {pixels.shape}")
        if pixels.dtype == np.float32 and not (pixels.min() >= 0 and pixels.max() <= 1):
            raise PictureError(
                f"{name} has values from {pixels.min():g} to {pixels.max():g}; scale them to "
                "[0, 1]"
            )
        turned = upright(pixels, orientation_of(source.exif))
        icc = source.info.get("icc_profile")
        profile = icc if isinstance(icc, bytes) and icc else None
        values = turned[..., 0] if mode == "L" else turned
        return Picture(values, profile, read_metadata(source, name))


def _read(
    data: bytes, name: str, max_pixels: int, *, frames: bool
) -> tuple[NDArray[Any], Mode, Source]:
    """Return pixels in the orientation of the file, their mode, and the metadata's source."""
    if kind_of(data) == "TIFF" and not _is_for_pillow(data, name):
        pixels, mode, exif, info = read_by_tifffile(data, name, max_pixels)
        return pixels, mode, Source("TIFF", exif, info, orientation_of(exif))
    if kind_of(data) == "AVIF" and avif_bit_depth(data) > 8:
        raise PictureError(
            f"{name} is AVIF of {avif_bit_depth(data)} bits per channel, which Pillow "
            "reduces to 8; convert it to PNG of 16 bits"
        )
    profile: bytes | None = None
    animated = False
    if kind_of(data) == "PNG":
        data, profile = without_large_chunks(data, name)
        data, animated = without_animation(data)
    image = _opened(data, name)
    _check_kind(image, name, max_pixels)
    # `page_of` has counted the frames of a TIFF, for which Pillow takes quadratic time.
    animated = animated or (image.format != "TIFF" and getattr(image, "is_animated", False))
    if animated and not frames:
        logger.warning("%s: only the first of its frames is read", name)
    if image.format == "PNG" and not check_png(data, name):
        logger.warning("%s: its end is missing, but none of its pixels", name)
    if image.format == "JPEG":
        check_scans(data, name)
    # Pillow turns a TIFF upright when it loads it, and drops the orientation.
    turned = orientation_of(sound_exif(image, name)) if image.format == "TIFF" else 1
    if bits_of(image) > 8:
        pixels, mode = deep_pixels(image, lambda: _opened(data, name))
        key = image.info.get("transparency")
        if key is not None:
            pixels, mode = _keyed(pixels, mode, key)
    else:
        image = _loaded(image, data, name)
        if image.mode == "CMYK":
            converted, image.info["icc_profile"] = rgb_from_cmyk(image, name)
            pixels, mode = eight_bit(converted)
        else:
            pixels, mode = eight_bit(image)
    chunks = dict(chunks_of(data)) if image.format == "PNG" else {}
    text = image.text if isinstance(image, PngImagePlugin.PngImageFile) else {}
    exif = sound_exif(image, name)
    turned = max(turned, orientation_of(exif))
    described: dict[Any, Any] = dict(image.info)
    if profile is not None:
        described["icc_profile"] = profile
    return pixels, mode, Source(str(image.format), exif, described, turned, text, chunks)


def _opened(data: bytes, name: str) -> ImageFile.ImageFile:
    """Open a file at its only page."""
    page = page_of(data, name) if kind_of(data) == "TIFF" else 0
    image = open_image(data, name)
    if page:
        image.seek(page)
    return image


def _loaded(image: ImageFile.ImageFile, data: bytes, name: str) -> ImageFile.ImageFile:
    """Load a file; a JPEG that lacks its end is read if it lacks no pixel."""
    try:
        image.load()
        return image
    except OSError as error:
        if image.format != "JPEG" or "truncated" not in str(error):
            raise
        first, second = (open_image(whole, name) for whole in completions(data))
        first.load()
        second.load()
        if first.tobytes() != second.tobytes():
            raise
    logger.warning("%s: its end is missing, but none of its pixels", name)
    return first


def _is_for_pillow(data: bytes, name: str) -> bool:
    """Return whether Pillow reads a TIFF without loss."""
    try:
        image = _opened(data, name)
    except SyntaxError:  # Pillow's error for unknown channels
        return False
    return bits_of(image) <= 8 or is_read_whole(image)


def _check_kind(image: ImageFile.ImageFile, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(f"{name} has {width * height} pixels, more than {max_pixels}")
    if image.mode not in _MODES:
        raise PictureError(f"{name} is {image.mode}; convert it to RGB")


def eight_bit(image: Image.Image) -> tuple[NDArray[np.uint8], Mode]:
    """Return the pixels of an image of up to 8 bits per channel, (h, w, channels), and mode."""
    gray = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        mode: Mode = "LA" if gray else "RGBA"
    else:
        mode = "L" if gray else "RGB"
    converted = "RGBA" if mode == "LA" else mode  # Pillow converts nothing to LA
    pixels = np.array(image if image.mode == converted else image.convert(converted))
    if mode == "LA":
        pixels = pixels[..., [0, 3]]
    return (pixels[..., None] if mode == "L" else pixels), mode


def _keyed(
    pixels: NDArray[np.uint16], mode: Mode, key: int | tuple[int, ...]
) -> tuple[NDArray[np.uint16], Mode]:
    """Return a 16-bit picture with its transparent color as alpha."""
    if mode in ("LA", "RGBA"):
        return pixels, mode
    color = np.array(key if isinstance(key, tuple) else (key,), dtype=np.uint16)
    alpha = np.where((pixels == color).all(axis=2), 0, 65535).astype(np.uint16)
    joined = np.concatenate([pixels, alpha[..., None]], axis=2)
    return joined, "LA" if mode == "L" else "RGBA"


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn pixels upright by their EXIF orientation: 5 to 8 swap the axes."""
    turned = pixels.transpose(1, 0, 2) if orientation > 4 else pixels
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


@contextmanager
def picture_errors(name: str, max_pixels: int | None = None) -> Iterator[None]:
    """Translate the errors of decoders to errors of a picture with a name."""
    try:
        yield
    except (PictureError, MemoryBudgetError):
        raise
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name} has more than {max_pixels} pixels") from error
    except MemoryError as error:
        raise MemoryBudgetError(f"{name} does not fit in memory") from error
    except Exception as error:  # decoders raise anything on damaged files
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PictureError(f"{name} is damaged: {text or type(error).__name__}") from error
