"""Check a JPEG before it is decoded, and complete one that lacks its end."""

import re
import struct
from typing import Final

from flowsr_runtime.errors import PictureError

__all__ = ["check_scans", "completions"]

_MOST_SCANS: Final = 100
"""Scans of a file; libjpeg passes over the whole image for each. Encoders make 10."""

_MARKER: Final = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]", re.DOTALL)  # ends coded data
_SCAN, _END = 0xDA, 0xD9
_ALONE: Final = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # markers without a length


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
