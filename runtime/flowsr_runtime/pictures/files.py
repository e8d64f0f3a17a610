"""Read and write picture files with their channels, depth, ICC profile and metadata."""

import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.atomic import replace_file
from flowsr_runtime.errors import MemoryBudgetError, OutputError, PictureError, ShapeError
from flowsr_runtime.pictures.alpha import resize_alpha
from flowsr_runtime.pictures.codecs.png import encode_png16
from flowsr_runtime.pictures.codecs.tiff import encode_tiff
from flowsr_runtime.pictures.decoding import decode
from flowsr_runtime.pictures.depth import Depth, depth_of, full_scale, to_depth
from flowsr_runtime.pictures.formats import (
    FORMATS,
    SUFFIXES,
    Format,
    Mode,
    check_format,
    format_named,
)
from flowsr_runtime.pictures.metadata import Metadata, save_options
from flowsr_runtime.pictures.picture import MODES, Picture
from flowsr_runtime.pictures.pixels import luma

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Metadata",
    "Picture",
    "check_output",
    "check_picture",
    "content_of",
    "encode_picture",
    "read_picture",
    "write_content",
    "write_picture",
]

MAX_PIXELS: Final = 178_956_970
"""Largest number of pixels of a picture: Pillow's own limit for a decompression bomb."""


def read_picture(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Read a PNG, JPEG, WebP, BMP, TIFF or AVIF picture.

    Many threads may call this at once. docs/guides/pictures.md lists the data read per format.

    Args:
        source: Picture file, its content, or an open binary file.
        max_pixels: Largest number of pixels of a picture.

    Returns:
        The picture, turned upright by its EXIF orientation.

    Raises:
        PictureError: If it is missing, damaged, too large, or of an unsupported kind.
        MemoryBudgetError: If it does not fit in memory.
    """
    data, name = content_of(source)
    return decode(data, name, max_pixels)


def check_output(
    path: str | os.PathLike[str],
    force: bool = False,
    *,
    like: Picture | None = None,
    size: tuple[int, int] | None = None,
    depth: Depth | None = None,
) -> None:
    """Check that a picture can be written, before slow work.

    Args:
        path: Picture file to write.
        force: Replace an existing file.
        like: Picture whose alpha, depth and ICC profile are kept.
        size: Size (H, W) of the picture to write.
        depth: Depth to write with, None for that of `like`.

    Raises:
        OutputError: If the suffix is unknown, the folder is missing or read-only, the file
            exists and `force` is not given, or the format cannot hold the picture.
        UsageError: If there is no such depth.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise OutputError(f"{target} must end in one of {', '.join(sorted(SUFFIXES))}")
    if not os.path.isdir(target.parent):
        raise OutputError(f"{target} cannot be written: no folder {target.parent}")
    if os.path.isdir(target):
        raise OutputError(f"{target} cannot be written: it is a folder")
    if _exists(target) and not force:
        raise OutputError(f"{target} exists; force=True replaces it", option="force")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target} cannot be written: folder {target.parent} is read-only")
    if depth is None and like is not None:
        depth = like.depth
    check_picture(str(target), target.suffix, like, size, 8 if depth is None else depth)


def check_picture(
    name: str,
    format_name: str,
    like: Picture | None,
    size: tuple[int, int] | None,
    depth: Depth,
) -> None:
    """Check that a format can hold a picture, before slow work.

    Args:
        name: Name of the output in messages.
        format_name: Name or suffix of the format.
        like: As for `check_output`.
        size: As for `check_output`.
        depth: Depth to write with.

    Raises:
        OutputError: If it cannot.
        UsageError: If there is no such depth.
    """
    mode: Mode = "RGB" if like is None else like.mode
    icc = None if like is None else like.icc
    if like is not None and _drops_alpha(format_named(format_name), like.pixels):
        mode = "L" if like.gray else "RGB"
    check_format(format_name, mode, depth, size=size, icc=icc, name=name)


def write_picture(
    path: str | os.PathLike[str],
    pixels: NDArray[Any] | Picture,
    *,
    like: Picture | None = None,
    force: bool = False,
    depth: Depth | None = None,
    quality: int | None = None,
) -> None:
    """Write a picture atomically; a failure leaves the old file intact.

    Args:
        path: Picture file; its suffix selects the format.
        pixels: As for `encode_picture`.
        like: As for `encode_picture`.
        force: Replace an existing file.
        depth: As for `encode_picture`.
        quality: As for `encode_picture`.

    Raises:
        ShapeError: If `pixels` is no picture, or its channels do not match `like`.
        OutputError: If it cannot be written.
        UsageError: If there is no such depth.
    """
    target = Path(path)
    pixels, like = _apart(pixels, like)
    written = depth_of(pixels) if depth is None else depth
    check_output(target, force, like=like, size=_size(pixels), depth=written)
    kind = FORMATS[SUFFIXES[target.suffix.lower()]]
    data = _encoded(pixels, kind, like, depth, quality, str(target))
    write_content(target, data)


def write_content(path: str | os.PathLike[str], data: bytes) -> None:
    """Write an encoded picture atomically.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        replace_file(Path(path), data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {_reason(error)}") from error


def encode_picture(
    pixels: NDArray[Any] | Picture,
    format: str,
    *,
    like: Picture | None = None,
    depth: Depth | None = None,
    quality: int | None = None,
) -> bytes:
    """Encode a picture as a file of any format.

    Many threads may call this at once. docs/guides/pictures.md lists the data of each format.

    Args:
        pixels: `Picture`, written with its own ICC profile and metadata unless `like` is
            given; or an array, (H, W) or (H, W, 1) gray, (H, W, 2) gray and alpha, (H, W, 3)
            RGB or (H, W, 4) RGBA; uint8, uint16, or float32 in [0, 1].
        format: "PNG", "JPEG", "WEBP", "TIFF", "AVIF", "BMP" or a suffix, in any case.
        like: Picture that `pixels` was made from: its ICC profile and metadata are written;
            RGB pixels become gray if it is gray, and get its alpha, resized bilinearly, if it
            has alpha.
        depth: Depth to write with, None for that of `pixels`.
        quality: From 1 to 100, for JPEG, WebP and AVIF; None for JPEG of 95, lossless WebP
            and AVIF of 90.

    Returns:
        The file's content.

    Raises:
        ShapeError: If `pixels` is no picture, or its channels do not match `like`.
        OutputError: If there is no such format, or it cannot hold the picture.
        UsageError: If there is no such depth.
    """
    pixels, like = _apart(pixels, like)
    written = depth_of(pixels) if depth is None else depth
    check_picture("the picture", format, like, _size(pixels), written)
    return _encoded(pixels, format_named(format), like, depth, quality, "the picture")


def _apart(
    pixels: NDArray[Any] | Picture, like: Picture | None
) -> tuple[NDArray[Any], Picture | None]:
    """Return the pixels, and the picture with the profile and metadata to write."""
    if isinstance(pixels, Picture):
        return pixels.pixels, pixels if like is None else like
    return pixels, like


def content_of(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[bytes, str]:
    """Return a file's content, and its name for messages.

    Raises:
        PictureError: If it cannot be read, or is empty.
    """
    name = "the picture"
    try:
        if isinstance(source, bytes):
            data = source
        elif isinstance(source, (str, os.PathLike)):
            name = str(source)
            data = Path(source).read_bytes()
        else:
            name = str(getattr(source, "name", name))
            data = source.read()
    except FileNotFoundError as error:
        raise PictureError(f"{name} does not exist") from error
    except OSError as error:
        raise PictureError(f"{name} cannot be read: {_reason(error)}") from error
    if not data:
        raise PictureError(f"{name} is empty")
    return data, name


def _size(pixels: NDArray[Any]) -> tuple[int, int]:
    """Return the size of an array after a check that it is a picture."""
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or pixels.shape[2:] > (4,):
        raise ShapeError(f"picture must be (H, W) or (H, W, 1 to 4), got {pixels.shape}")
    return pixels.shape[0], pixels.shape[1]


def _exists(path: Path) -> bool:
    """Return whether there is something at a path, which may not be possible to have."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written: {_reason(error)}") from error
    return True


def _drops_alpha(target: Format, pixels: NDArray[Any]) -> bool:
    """Return whether pixels have an alpha that a format need not hold: they are opaque."""
    if target.alpha or pixels.ndim < 3 or pixels.shape[2] not in (2, 4):
        return False
    return bool((pixels[..., -1] == full_scale(pixels.dtype)).all())


def _arranged(
    pixels: NDArray[Any], like: Picture | None, *, alpha: bool = True
) -> NDArray[Any]:
    """Return pixels with the channels to write, (H, W, channels)."""
    values = pixels[..., None] if pixels.ndim == 2 else pixels
    count = values.shape[2]
    if like is None or MODES[count] == like.mode:
        return values
    if count != 3:
        mode = MODES[count]
        raise ShapeError(f"picture must be RGB or {like.mode} as its original, got {mode}")
    if like.gray:
        values = to_depth(luma(to_depth(values, "float")), depth_of(pixels))
    if like.alpha is None or not alpha:
        return values
    given = to_depth(like.alpha, depth_of(pixels))
    return np.dstack([values, resize_alpha(given, _size(pixels))])


def _encoded(
    pixels: NDArray[Any],
    target: Format,
    like: Picture | None,
    depth: Depth | None,
    quality: int | None,
    name: str,
) -> bytes:
    settings = target.options_at(quality)
    opaque = like is not None and _drops_alpha(target, like.pixels)
    values = _arranged(pixels, like, alpha=not opaque)
    if _drops_alpha(target, values):
        values = values[..., :-1]
    values = values if depth is None else to_depth(values, depth)
    mode = MODES[values.shape[2]]
    if mode in ("LA", "RGBA") and not target.alpha:
        raise OutputError(f"{name} cannot be written: {target.name} holds no alpha; write PNG")
    metadata = Metadata() if like is None else like.metadata
    options = save_options(metadata, target, None if like is None else like.icc, _size(values))
    try:
        if target.name == "TIFF":
            return encode_tiff(values, mode, options)
        if values.dtype == np.uint16:
            return encode_png16(values, mode, options)
        return _by_pillow(values, mode, target, {**settings, **options})
    except OutputError:
        raise
    except MemoryError as error:
        raise MemoryBudgetError(f"{name} does not fit in memory as {target.name}") from error
    except (OSError, ValueError, OverflowError, struct.error) as error:
        reason = _reason(error)
        raise OutputError(f"{name} cannot be encoded as {target.name}: {reason}") from error


def _by_pillow(
    pixels: NDArray[np.uint8], mode: Mode, target: Format, options: dict[str, Any]
) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if mode == "L" else pixels))
    if not target.gray and mode in ("L", "LA"):
        image = image.convert("RGB" if mode == "L" else "RGBA")
    buffer = io.BytesIO()  # a full disk must not look like an error of the encoder
    image.save(buffer, format=target.name, **options)
    return buffer.getvalue()


def _reason(error: BaseException) -> str:
    """Return an error's text on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
