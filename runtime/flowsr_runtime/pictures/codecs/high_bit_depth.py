"""Find and load pictures of more than 8 bits, which Pillow reduces to 8."""

import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageFile

from flowsr_runtime.pictures.formats import Mode

__all__ = ["avif_bit_depth", "bits_of", "deep_pixels", "is_read_whole"]

_BASE: Final = ExifTags.Base
_UNSIGNED, _FLOAT = 1, 3  # TIFF's sample formats

# Pillow reduces 16-bit channels to their high byte. Read in the opposite byte order, that is
# the low byte. Suffixes of the packing, and of the packing in the opposite order.
_OTHER_HALF: Final = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_CUT: Final = ("RGB;16", "RGBA;16", "RGBX;16")
_WHOLE: Final = ("I;16", "F;32")

# Boxes that lead to the codec's configurations; `meta` starts with a version and flags.
_PATH: Final = (b"meta", b"iprp", b"ipco")
_CONFIGURATION: Final = b"av1C"
_HIGH, _TWELVE = 0x40, 0x20  # flags in the third byte of a configuration


def bits_of(image: ImageFile.ImageFile) -> int:
    """Return the bits per channel of a file.

    Args:
        image: Image, not loaded.

    Returns:
        Bits of the deepest channel; Pillow reads 8 or fewer without loss.
    """
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BASE.BitsPerSample, (1,))
        return int(max(bits))
    if image.format == "PNG":
        # Pillow's name for how the pixels are packed, such as "RGB;16B".
        return 16 if any(";16" in packing for packing in _packings(image)) else 8
    return 8


def is_read_whole(image: ImageFile.ImageFile) -> bool:
    """Return whether `deep_pixels` reads a deep TIFF without loss.

    Args:
        image: Image, not loaded.
    """
    tags = getattr(image, "tag_v2", {})
    bits = tuple(tags.get(_BASE.BitsPerSample, (1,)))
    kinds = set(tags.get(_BASE.SampleFormat, (_UNSIGNED,)))
    return (
        (set(bits), kinds) in (({16}, {_UNSIGNED}), ({32}, {_FLOAT}))
        and tags.get(_BASE.PhotometricInterpretation) in (1, 2)  # gray from black, RGB
        and (len(bits) == 1 or tags.get(_BASE.PlanarConfiguration, 1) == 1)
        and all(packing.startswith((*_CUT, *_WHOLE)) for packing in _packings(image))
    )


def deep_pixels(
    image: ImageFile.ImageFile, reopen: Callable[[], ImageFile.ImageFile]
) -> tuple[NDArray[Any], Mode]:
    """Load a picture of 16 bits or float.

    Args:
        image: Image, a PNG or `is_read_whole`; it is loaded.
        reopen: Opens the file again, without loading it.

    Returns:
        Picture, (h, w, channels) uint16 or float32, and its mode.
    """
    packing = _packings(image)[0]
    if packing.startswith("F;32"):
        # libtiff returns floats in the machine's byte order; Pillow assumes the file's.
        native = image.tile[0].codec_name == "libtiff"
        return _loaded_as(image, "F", "F;32NF" if native else packing)[..., None], "L"
    if packing.startswith("I;16"):
        image.load()
        return np.asarray(image).astype(np.uint16)[..., None], "L"
    if packing.startswith("LA;16"):
        pairs = _loaded_as(image, "RGBA", "RGBA").astype(np.uint16)
        return pairs[..., 0::2] * np.uint16(256) + pairs[..., 1::2], "LA"
    mode: Mode = "RGBA" if packing.startswith("RGBA") else "RGB"
    high = _loaded_as(image, mode, packing).astype(np.uint16)
    low = _loaded_as(reopen(), mode, packing[:-1] + _OTHER_HALF[packing[-1]])
    high *= np.uint16(256)
    high += low
    return high, mode


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
    bits = (8 if not flag & _HIGH else 12 if flag & _TWELVE else 10 for flag in flags)
    return max(bits, default=8)


def _packings(image: ImageFile.ImageFile) -> list[str]:
    args = [tile.args for tile in image.tile]
    return [str(packing[0] if isinstance(packing, tuple) else packing) for packing in args]


def _loaded_as(image: ImageFile.ImageFile, mode: str, packing: str) -> NDArray[Any]:
    """Load an image with its pixels interpreted in another packing."""
    image._mode = mode
    image.tile = [
        tile._replace(
            args=(packing, *tile.args[1:]) if isinstance(tile.args, tuple) else packing
        )
        for tile in image.tile
    ]
    image.load()
    return np.asarray(image)


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
