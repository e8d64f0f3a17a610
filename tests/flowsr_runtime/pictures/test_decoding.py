"""Decoding: sixteen bits keep key, orientation and every damaged file its one line."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import FlowsrError, PictureError
from flowsr_runtime.pictures.files import encode_picture, read_picture
from tests.flowsr_runtime.pictures.picture_files import deep_png_file

Pixels = NDArray[np.uint16]
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}
SAMPLE = np.random.default_rng(4).integers(0, 65536, (9, 8, 4)).astype(np.uint16)
FILES = [
    encode_picture((SAMPLE >> 8).astype(np.uint8)[..., :3], "JPEG"),
    *(encode_picture(SAMPLE, format) for format in ("PNG", "TIFF")),
    *(
        encode_picture((SAMPLE >> 8).astype(np.uint8), format)
        for format in ("PNG", "WEBP", "TIFF")
    ),
    encode_picture((SAMPLE / np.float32(65535)).astype(np.float32), "TIFF"),
    encode_picture((SAMPLE >> 8).astype(np.uint8), "AVIF"),
]


@pytest.mark.parametrize("orientation", TURNS)
def test_sixteen_bits_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes()[6:]
    picture = read_picture(deep_png_file(SAMPLE, (b"eXIf", block)))
    np.testing.assert_array_equal(picture.pixels, TURNS[orientation](SAMPLE))


def test_a_transparent_color_of_sixteen_bits_is_compared_whole() -> None:
    pixels = np.array([[[258, 1, 2], [259, 1, 2]]], np.uint16)  # one high byte, two low ones
    picture = read_picture(deep_png_file(pixels, (b"tRNS", bytes([1, 2, 0, 1, 0, 2]))))
    assert picture.mode == "RGBA"
    assert picture.alpha is not None
    assert picture.alpha.tolist() == [[0, 65535]]


def test_a_transparent_gray_of_sixteen_bits_becomes_alpha() -> None:
    pixels = np.array([[[258], [259]]], np.uint16)
    picture = read_picture(deep_png_file(pixels, (b"tRNS", bytes([1, 3]))))
    assert picture.mode == "LA"
    assert picture.pixels.tolist() == [[[258, 65535], [259, 0]]]


def outcome(data: bytes) -> tuple[int, ...] | str:
    """Return the shape of a picture, or the refusal."""
    try:
        return read_picture(data, max_pixels=10_000).rgb.shape
    except FlowsrError as error:
        return str(error)


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on metadata; they are not ours
@given(st.sampled_from(FILES), st.integers(0, 10**6), st.binary(min_size=1, max_size=6))
def test_a_damaged_file_is_a_picture_or_one_line(data: bytes, at: int, junk: bytes) -> None:
    place = at % len(data)
    found = outcome(data[:place] + junk + data[place + len(junk) :])
    assert isinstance(found, tuple) or "\n" not in found


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(FILES), st.integers(0, 10**6))
def test_a_cut_file_is_its_picture_or_one_line(data: bytes, length: int) -> None:
    found = outcome(data[: length % len(data)])
    assert found == (9, 8, 3) or (isinstance(found, str) and "\n" not in found)


def test_sixteen_bits_are_read_from_an_open_file() -> None:
    file = io.BytesIO(deep_png_file(SAMPLE))
    np.testing.assert_array_equal(read_picture(file).pixels, SAMPLE)


def test_what_a_library_gives_in_another_shape_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty: tuple[Any, ...] = np.zeros((0,), np.uint16), "RGBA", Image.Exif(), {}
    monkeypatch.setattr("flowsr_runtime.pictures.decoding.read_by_tifffile", lambda *_: empty)
    data = encode_picture(np.zeros((2, 2, 3), np.float32), "TIFF")
    with pytest.raises(PictureError, match=r"RGBA has pixels of shape \(0,\)"):
        read_picture(data)
