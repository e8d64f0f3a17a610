"""Pictures of more than 8 bits are read without loss."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from flowsr_runtime.errors import PictureError
from flowsr_runtime.pictures.codecs.high_bit_depth import (
    avif_bit_depth,
    bits_of,
    deep_pixels,
    is_read_whole,
)
from flowsr_runtime.pictures.files import encode_picture, read_picture
from flowsr_runtime.pictures.formats import open_image
from tests.flowsr_runtime.pictures.picture_files import deep_png_file

HIGH, TWELVE = 0x40, 0x20  # flags of an AVIF configuration


def opened(data: bytes) -> Any:
    return open_image(data, "a file")


def tiff_of(pixels: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_eight_bits_are_told(photo: NDArray[np.uint8], format: str) -> None:
    assert bits_of(opened(encode_picture(photo, format))) == 8


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_deep_png_is_told(channels: int) -> None:
    assert bits_of(opened(deep_png_file(np.zeros((2, 2, channels), np.uint16)))) == 16


@pytest.mark.parametrize(
    ("dtype", "options", "whole"),
    [
        (np.uint16, {"photometric": "rgb"}, True),
        (np.uint16, {"photometric": "rgb", "byteorder": ">"}, True),
        (np.uint16, {"photometric": "rgb", "planarconfig": "separate"}, False),
        (np.int16, {"photometric": "rgb"}, False),
    ],
)
def test_what_pillow_gives_whole_is_known(
    dtype: type[Any], options: dict[str, Any], whole: bool
) -> None:
    planar = "planarconfig" in options
    pixels = np.zeros((3, 5, 4) if planar else (5, 4, 3), dtype)
    data = tiff_of(pixels, **options)
    image = opened(data) if dtype is np.uint16 else None
    assert (image is not None and is_read_whole(image)) == whole


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_both_bytes_of_a_tiff_are_read(order: Any, compression: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (5, 4, 3)).astype(np.uint16)
    data = tiff_of(pixels, photometric="rgb", byteorder=order, compression=compression)
    found, mode = deep_pixels(opened(data), lambda: opened(data))
    assert mode == "RGB"
    np.testing.assert_array_equal(found, pixels)


@pytest.fixture
def avif(photo: NDArray[np.uint8]) -> bytes:
    return encode_picture(photo, "avif")


def with_flags(data: bytes, flags: int) -> bytes:
    """Return an AVIF whose configurations say more bits."""
    at = data.index(b"av1C") + 6
    return data[:at] + bytes([data[at] | flags]) + data[at + 1 :]


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def test_an_avif_of_eight_bits_is_told(avif: bytes) -> None:
    assert avif_bit_depth(avif) == 8


@pytest.mark.parametrize(("flags", "bits"), [(HIGH, 10), (HIGH | TWELVE, 12)])
def test_more_bits_are_told_and_refused(avif: bytes, flags: int, bits: int) -> None:
    deep = with_flags(avif, flags)
    assert avif_bit_depth(deep) == bits
    with pytest.raises(PictureError, match=rf"AVIF of {bits} bits .* PNG of 16 bits"):
        read_picture(deep)


def test_a_box_of_64_bits_and_one_to_the_end_are_followed() -> None:
    inner = box(b"ipco", box(b"av1C", bytes([0x81, 0, HIGH, 0])))
    long_box = struct.pack(">I4sQ", 1, b"iprp", 16 + len(inner)) + inner
    meta = struct.pack(">I4s", 0, b"meta") + bytes(4) + long_box
    assert avif_bit_depth(box(b"ftyp", b"avif") + meta) == 10


@pytest.mark.parametrize("length", range(0, 200, 13))
def test_a_cut_file_is_gone_through(avif: bytes, length: int) -> None:
    assert avif_bit_depth(avif[:length]) == 8
