"""The bit depth of AVIF is read from its codec configuration."""

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.errors import PictureError
from flowsr_runtime.pictures.avif import avif_bit_depth
from flowsr_runtime.pictures.files import encode_picture, read_picture

HIGH, TWELVE = 0x40, 0x20


@pytest.fixture
def avif(photo: NDArray[np.uint8]) -> bytes:
    return encode_picture(photo, "avif")


def with_flags(data: bytes, flags: int) -> bytes:
    """Return an AVIF whose configurations say more bits."""
    at = data.index(b"av1C") + 6
    return data[:at] + bytes([data[at] | flags]) + data[at + 1 :]


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def test_eight_bits_are_told(avif: bytes) -> None:
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
