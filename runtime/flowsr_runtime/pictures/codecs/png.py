"""Write PNG of 16 bits per channel, which Pillow cannot, and read the chunks of a PNG."""

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "MOST_PROFILE",
    "MOST_TEXT",
    "PNG_SIGNATURE",
    "chunks_of",
    "encode_png16",
    "without_animation",
    "without_large_chunks",
]

logger = logging.getLogger(__name__)

MOST_PROFILE: Final = 16 << 20
"""Largest ICC profile in bytes; those of printers have some megabytes."""

MOST_TEXT: Final = 1 << 20
"""Largest text in bytes, which is Pillow's limit."""

MOST_TEXTS: Final = 32 << 20  # of all texts of a file
_TEXTS: Final = (b"tEXt", b"zTXt", b"iTXt")
_ANIMATION: Final = (b"acTL", b"fcTL", b"fdAT")

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES: Final = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
# Filtered 16-bit rows hold runs, but few repeats: an upscaled photograph compresses four times
# as fast as with zlib's default strategy, and to 2 % less.
_LEVEL: Final = 6

_BLOCK_BYTES: Final = 2**20
"""Bytes of pixels to filter at a time; filtering takes about twenty times as much."""


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over the chunks of a PNG.

    Args:
        data: The file's content.

    Yields:
        Name and content of each chunk, up to the first incomplete one.
    """
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield name, data[at + 8 : at + 8 + length]
        at += 12 + length


def without_animation(data: bytes) -> tuple[bytes, bool]:
    """Take the animation out of a PNG: what is left is the picture that any decoder shows.

    Args:
        data: The file's content.

    Returns:
        The file, and whether it had several frames.
    """
    kept, animated = [PNG_SIGNATURE], False
    at = len(PNG_SIGNATURE)
    for kind, content in chunks_of(data):
        whole, at = data[at : at + 12 + len(content)], at + 12 + len(content)
        if kind == b"acTL" and len(content) >= 4:
            animated |= int.from_bytes(content[:4], "big") > 1
        if kind not in _ANIMATION:
            kept.append(whole)
    return b"".join([*kept, data[at:]]), animated


def without_large_chunks(data: bytes, name: str) -> tuple[bytes, bytes | None]:
    """Take out what Pillow would refuse a whole PNG for.

    Args:
        data: The file's content.
        name: Name of the file in the log.

    Returns:
        The file without texts larger than `MOST_TEXT` and without its ICC profile; and the
        profile, None without one or if it is damaged or larger than `MOST_PROFILE`.
    """
    kept, profile, texts = [PNG_SIGNATURE], None, 0
    at = len(PNG_SIGNATURE)
    for kind, content in chunks_of(data):
        whole, at = data[at : at + 12 + len(content)], at + 12 + len(content)
        if kind == b"iCCP":
            profile = _expanded(content.partition(b"\0")[2][1:], MOST_PROFILE)
            if profile is None:
                logger.warning(
                    "%s: its ICC profile is damaged or too large, and not kept", name
                )
            continue
        if kind in _TEXTS:
            size = _text_size(kind, content)
            texts += size
            if size > MOST_TEXT or texts > MOST_TEXTS:
                logger.warning("%s: a text of more than 1 MiB is not kept", name)
                continue
        kept.append(whole)
    return b"".join([*kept, data[at:]]), profile


def _text_size(kind: bytes, content: bytes) -> int:
    """Return the size of a text when it is expanded, or more than `MOST_TEXT`."""
    rest = content.partition(b"\0")[2]
    if kind == b"tEXt" or (kind == b"iTXt" and rest[:1] != b"\1"):
        return len(content)
    packed = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    text = _expanded(packed, MOST_TEXT)
    return MOST_TEXT + 1 if text is None else len(text)


def _expanded(packed: bytes, most: int) -> bytes | None:
    """Return what is compressed, None if it is damaged or larger than a number of bytes."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(packed, most)
    except zlib.error:
        return None
    return None if inflater.unconsumed_tail else content


def encode_png16(pixels: NDArray[np.uint16], mode: str, options: dict[str, Any]) -> bytes:
    """Encode a picture as PNG of 16 bits per channel.

    Args:
        pixels: Picture, (H, W, channels) uint16.
        mode: "L", "LA", "RGB" or "RGBA".
        options: Options of Pillow's `save` for the metadata.

    Returns:
        The file's content.
    """
    # Pillow writes the metadata, around one pixel whose header and data are replaced.
    stand_in = io.BytesIO()
    Image.new(mode, (1, 1)).save(stand_in, format="PNG", **options)
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[mode], 0, 0, 0)
    parts = [PNG_SIGNATURE]
    for name, content in chunks_of(stand_in.getvalue()):
        if name == b"IDAT":
            parts += [_chunk(name, packed) for packed in _packed(pixels)]
        else:
            parts.append(_chunk(name, header if name == b"IHDR" else content))
    return b"".join(parts)


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def _packed(pixels: NDArray[np.uint16]) -> Iterator[bytes]:
    """Yield the filtered and compressed rows, in pieces that fit in a chunk."""
    height, width, channels = pixels.shape
    step = 2 * channels
    rows = max(1, _BLOCK_BYTES // (step * width))
    above: NDArray[np.uint8] = np.zeros((1, step * width), dtype=np.uint8)
    packer = zlib.compressobj(_LEVEL, strategy=zlib.Z_RLE)
    for top in range(0, height, rows):
        block = np.ascontiguousarray(pixels[top : top + rows], dtype=">u2")
        lines = block.view(np.uint8).reshape(len(block), step * width)
        packed = packer.compress(_filtered(lines, above, step))
        if packed:
            yield packed
        above = lines[-1:]
    yield packer.flush()


def _filtered(lines: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> bytes:
    """Filter rows, each by the type whose sum of absolute differences is least.

    The rows, (rows, bytes), follow the row `above`, (1, bytes); a pixel has `step` bytes. Each
    result has its filter type in front (PNG specification, section 9).
    """
    up = np.concatenate([above, lines[:-1]])
    zeros = np.zeros((len(lines), step), dtype=np.uint8)
    left = np.concatenate([zeros, lines], axis=1)[:, : lines.shape[1]]
    corner = np.concatenate([zeros, up], axis=1)[:, : lines.shape[1]]
    mean = ((left.astype(np.uint16) + up) // 2).astype(np.uint8)
    guesses = (np.uint8(0), left, up, mean, _paeth(left, up, corner))
    candidates = [lines - guess for guess in guesses]  # modulo 256
    costs = [np.abs(rows.view(np.int8).astype(np.int16)).sum(axis=1) for rows in candidates]
    best = np.argmin(costs, axis=0)
    rows = np.stack(candidates)[best, np.arange(len(lines))]
    return np.concatenate([best[:, None].astype(np.uint8), rows], axis=1).tobytes()


def _paeth(
    left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the one of three neighbors that is closest to left + up - corner."""
    a, b, c = (values.astype(np.int16) for values in (left, up, corner))
    near_a, near_b, near_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    is_a = (near_a <= near_b) & (near_a <= near_c)
    return np.where(is_a, left, np.where(near_b <= near_c, up, corner))
