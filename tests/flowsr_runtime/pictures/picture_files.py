"""Picture files of every kind, made without the code that is tested."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

__all__ = [
    "GRAY_ICC",
    "RGB_ICC",
    "deep_png_file",
    "ink_profile",
    "picture_file",
    "png_of_chunks",
]

RGB_ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_ICC = RGB_ICC[:16] + b"GRAY" + RGB_ICC[20:]
"""An ICC profile of which tests only read the header."""

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


def ink_profile(corners: dict[tuple[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """Return an ICC profile of printing inks, a table of 2x2x2x2 colors (ICC.1:2001, 6.5.9).

    Args:
        corners: Colors in Lab, L 0 to 100, a and b -128 to 127, by none or all of each ink:
            cyan, magenta, yellow and black. Other corners are black.
    """
    grid = bytearray()
    for index in range(16):
        inks = index >> 3 & 1, index >> 2 & 1, index >> 1 & 1, index & 1
        light, a, b = corners.get(inks, (0, 0, 0))
        grid += bytes([round(light * 2.55), a + 128, b + 128])
    matrix = [0x10000 * (index % 4 == 0) for index in range(9)]
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + struct.pack(">9i", *matrix)
    table += ramp * 4 + grid + ramp * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    tags = [(b"A2B0", table), (b"wtpt", white)]
    at = 128 + 4 + 12 * len(tags)
    listed, content = struct.pack(">I", len(tags)), b""
    for name, value in tags:
        listed += struct.pack(">4sII", name, at + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    head = bytearray(128)
    head[0:4] = struct.pack(">I", at + len(content))
    head[8:12] = b"\x02\x40\0\0"
    head[12:24] = b"prtrCMYKLab "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return bytes(head) + listed + content
