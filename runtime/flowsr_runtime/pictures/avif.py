"""Bit depth of AVIF files, which Pillow silently reduces to 8 bits."""

import struct
from collections.abc import Iterator
from typing import Final

__all__ = ["avif_bit_depth"]

# Boxes that lead to the codec's configurations; `meta` starts with a version and flags.
_PATH: Final = (b"meta", b"iprp", b"ipco")
_CONFIGURATION: Final = b"av1C"
_HIGH, _TWELVE = 0x40, 0x20  # flags in the third byte of a configuration


def avif_bit_depth(data: bytes) -> int:
    """Return the bits per channel of an AVIF.

    Args:
        data: The file's content.

    Returns:
        8, 10 or 12; 8 if the file has no configuration, which Pillow then refuses.
    """
    region = memoryview(data)
    for step in _PATH:
        inside = next((content for name, content in _boxes(region) if name == step), None)
        if inside is None:
            return 8
        region = inside[4:] if step == b"meta" else inside
    flags = [content[2] for name, content in _boxes(region) if name == _CONFIGURATION]
    return max((_bits(flag) for flag in flags), default=8)


def _bits(flags: int) -> int:
    if not flags & _HIGH:
        return 8
    return 12 if flags & _TWELVE else 10


def _boxes(region: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Iterate over names and contents of boxes (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    while at + 8 <= len(region):
        size, name = struct.unpack_from(">I4s", region, at)
        head = 8
        if size == 1 and at + 16 <= len(region):
            head, size = 16, struct.unpack_from(">Q", region, at + 8)[0]
        end = len(region) if size == 0 else at + size
        if end < at + head or end > len(region):
            return
        yield name, region[at + head : end]
        at = end
