"""Check the structure of picture files before a decoder trusts it."""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from PIL import ExifTags

from flowsr_runtime.errors import PictureError
from flowsr_runtime.pictures.codecs.png import PNG_SIGNATURE, chunks_of

__all__ = ["check_compression", "check_png", "check_scans", "completions", "page_of"]

_BASE: Final = ExifTags.Base

_MOST_DIRECTORIES: Final = 1000
"""Directories of a file; thumbnails, masks and overviews are a few."""

_SIZES: Final = {1: 1, 3: 2, 4: 4, 16: 8}  # bytes of a whole number, by TIFF's type
_FORMATS: Final = {1: "B", 3: "H", 4: "I", 16: "Q"}
_REDUCED, _MASK = 1, 4  # flags of NewSubfileType

_SINGLE: Final = {
    254: "NewSubfileType",
    _BASE.ImageWidth: "ImageWidth",
    _BASE.ImageLength: "ImageLength",
    _BASE.Compression: "Compression",
    _BASE.SamplesPerPixel: "SamplesPerPixel",
}
"""Tags that hold one whole number."""

_BOUNDED: Final = {
    1: "none",
    5: "LZW",
    8: "Deflate",
    32946: "Deflate",
    32773: "PackBits",
    34925: "LZMA",
    50000: "Zstandard",
}
"""Compressions that tifffile expands to the size of a strip and no further."""

_MOST_SCANS: Final = 100
"""Scans of a file; libjpeg passes over the whole image for each. Encoders make 10."""

_MARKER: Final = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)  # ends coded data
_SCAN, _END = 0xDA, 0xD9
_ALONE: Final = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # markers without a length

_ANCILLARY: Final = 0x20  # bit of the first letter of a chunk that decoders may ignore
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
_ADAM7: Final = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""Left, top, horizontal and vertical step of each pass of an interlaced PNG."""

_PIECE: Final = 2**20  # bytes to inflate at a time


@dataclass(frozen=True)
class _Layout:
    """How numbers are laid out in a file.

    Attributes:
        order: Byte order, as of `struct`.
        big: Whether it is a BigTIFF, with numbers of 8 bytes.
    """

    order: str
    big: bool

    def number(self, data: bytes, at: int, size: int) -> int:
        """Return the unsigned number of 2, 4 or 8 bytes at a position."""
        form = self.order + {2: "H", 4: "I", 8: "Q"}[size]
        return int(struct.unpack_from(form, data, at)[0])


def page_of(data: bytes, name: str) -> int:
    """Return the index of the only page of a TIFF.

    Reduced copies and masks are no pages of their own (TIFF 6.0, NewSubfileType).

    Args:
        data: The file's content.
        name: Name of the file in messages.

    Returns:
        Index of the directory, from 0.

    Raises:
        PictureError: If a directory is damaged, or there are several pages.
    """
    layout = _Layout("<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+"))
    pages: list[int] = []
    seen: set[int] = set()
    width = 8 if layout.big else 4
    try:
        at = layout.number(data, 8 if layout.big else 4, width)
        while at and at not in seen:
            if len(seen) == _MOST_DIRECTORIES:
                raise PictureError(f"{name} has more than {_MOST_DIRECTORIES} frames")
            tags, following = _directory(data, at, layout, name)
            if not tags.get(254, 0) & (_REDUCED | _MASK):
                pages.append(len(seen))
            if len(pages) > 1:
                raise PictureError(f"{name} has several frames; give a file with one")
            seen.add(at)
            at = layout.number(data, following, width) if following + width <= len(data) else 0
    except struct.error as error:
        raise PictureError(f"{name} is damaged: a directory ends early") from error
    if not seen:
        raise PictureError(f"{name} is damaged: it has no directory")
    return pages[0] if pages else 0


def check_compression(compression: int, name: str) -> None:
    """Refuse a compression whose result may be larger than the strip that it fills.

    Args:
        compression: TIFF's number of the compression.
        name: Name of the file in messages.

    Raises:
        PictureError: If tifffile would expand it without a bound.
    """
    if compression not in _BOUNDED:
        raise PictureError(
            f"{name} has compression {compression}; convert it to Deflate, LZW, LZMA, "
            "PackBits, Zstandard or none"
        )


def check_scans(data: bytes, name: str) -> None:
    """Refuse a JPEG whose scans would take minutes to decode.

    Args:
        data: The file's content.
        name: Name of the file in messages.

    Raises:
        PictureError: If it has too many.
    """
    scans, at = 0, 2
    while (match := _MARKER.search(data, at)) is not None:
        marker, at = match[0][-1], match.end()
        if marker == _END:
            return
        if marker == _SCAN:
            scans += 1
        if scans > _MOST_SCANS:
            raise PictureError(f"{name} has more than {_MOST_SCANS} scans")
        if marker not in _ALONE and at + 2 <= len(data):
            at += struct.unpack_from(">H", data, at)[0]


def completions(data: bytes) -> tuple[bytes, bytes]:
    """Return two endings of a JPEG that ends early.

    libjpeg fills what is missing with the bits that follow, so the decoded pixels are the same
    with both only if none were missing.
    """
    return data + b"\xff\xd9", data + b"\x55\xaa" * 512 + b"\xff\xd9"


def check_png(data: bytes, name: str) -> bool:
    """Check what Pillow does not: the CRC of critical chunks, and the length of the pixels.

    Args:
        data: The file's content.
        name: Name of the file in messages.

    Returns:
        Whether the file has its last chunk, IEND.

    Raises:
        PictureError: If a critical chunk is damaged, or pixels are missing.
    """
    header, ended = b"", False
    inflater, inflated = zlib.decompressobj(), 0
    at = len(PNG_SIGNATURE)
    for kind, content in chunks_of(data):
        at += 8 + len(content)
        check = struct.unpack_from(">I", data, at)[0]
        at += 4
        if not kind[0] & _ANCILLARY and zlib.crc32(content, zlib.crc32(kind)) != check:
            shown = kind.decode("ascii", "replace")
            raise PictureError(f"{name} is damaged: the CRC of {shown} is wrong")
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            inflated += _inflated(inflater, content)
        elif kind == b"IEND":
            ended = True
            break
    if len(header) != 13:
        raise PictureError(f"{name} is damaged: it has no header")
    if inflated < _packed_bytes(header):
        raise PictureError(f"{name} is damaged: its pixels end early")
    return ended


def _directory(data: bytes, at: int, layout: _Layout, name: str) -> tuple[dict[int, int], int]:
    """Return the tags of `_SINGLE` of one directory, and the position after its entries."""
    count_size, entry, value_size = (8, 20, 8) if layout.big else (2, 12, 4)
    count = layout.number(data, at, count_size)
    begin = at + count_size
    if count * entry > len(data) - begin:
        raise PictureError(f"{name} is damaged: a directory ends early")
    tags: dict[int, int] = {}
    for position in range(begin, begin + count * entry, entry):
        tag, kind = struct.unpack_from(f"{layout.order}HH", data, position)
        if tag not in _SINGLE:
            continue
        values = layout.number(data, position + 4, value_size)
        if values != 1 or kind not in _SIZES or tag in tags:
            raise PictureError(f"{name} is damaged: {_SINGLE[tag]} must be one whole number")
        form = layout.order + _FORMATS[kind]
        tags[tag] = struct.unpack_from(form, data, position + 4 + value_size)[0]
    return tags, begin + count * entry


def _inflated(inflater: "zlib._Decompress", content: bytes) -> int:
    """Return how many bytes a part of the compressed rows expands to, keeping none of them."""
    size, rest = 0, content
    while rest and not inflater.eof:
        size += len(inflater.decompress(rest, _PIECE))
        rest = inflater.unconsumed_tail
    return size


def _packed_bytes(header: bytes) -> int:
    """Return the bytes of the filtered rows that a header describes."""
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * _CHANNELS.get(color, 0)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total
