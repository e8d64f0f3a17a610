"""Check the directories of a TIFF before a decoder trusts them."""

import struct
from dataclasses import dataclass
from typing import Final

from PIL import ExifTags

from flowsr_runtime.errors import PictureError

__all__ = ["check_compression", "page_of"]

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
