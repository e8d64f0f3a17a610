"""Picture files of every kind, made without the code that is tested."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

__all__ = ["GRAY_ICC", "RGB_ICC", "deep_png_file", "picture_file", "png_of_chunks"]

RGB_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_ICC = RGB_ICC[:16] + b"GRAY" + RGB_ICC[20:]
"""What it says of itself is all that anyone reads of it here."""

COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def png_of_chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of these chunks."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in chunks:
        check = zlib.crc32(name + content)
        parts.append(
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
        )
    return b"".join(parts)


def deep_png_file(
    pixels: NDArray[np.uint16], *chunks: tuple[bytes, bytes], rows: bytes | None = None
) -> bytes:
    """Return a PNG of 16 bits per channel, unfiltered unless its rows are given.

    Args:
        pixels: Picture, (h, w, 1 to 4) uint16.
        chunks: Chunks between header and pixels.
        rows: Filtered rows in place of unfiltered ones.
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPES[channels], 0, 0, 0)
    plain = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    data = zlib.compress(plain if rows is None else rows)
    return png_of_chunks((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b""))


def picture_file(pixels: NDArray[Any], format: str, **options: Any) -> bytes:
    """Return a file of an 8-bit picture, (h, w) or (h, w, 2 to 4), by Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=format, **options)
    return buffer.getvalue()
