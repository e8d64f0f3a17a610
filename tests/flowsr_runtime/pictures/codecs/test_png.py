"""16-bit PNG of every filter and interlacing is read, and written correctly."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.pictures.codecs import png
from flowsr_runtime.pictures.codecs.png import chunks_of, encode_png16
from flowsr_runtime.pictures.files import encode_picture, read_picture
from tests.flowsr_runtime.pictures.picture_files import deep_png_file, png_of_chunks

CHANNELS = [1, 2, 3, 4]
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]


def noise(h: int, w: int, channels: int, seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.arange(h) * 700, np.arange(w) * 311)[..., None] % 60000
    return (smooth + rng.integers(0, 5000, (h, w, channels))).astype(np.uint16)


def pixels_of(data: bytes) -> NDArray[np.uint16]:
    pixels = read_picture(data).pixels
    return pixels.reshape(*pixels.shape[:2], -1)


def filtered_rows(pixels: NDArray[np.uint16], kind: int) -> bytes:
    """Return rows with one filter, byte by byte as the specification words it."""
    step = 2 * pixels.shape[2]
    lines = [row.astype(">u2").tobytes() for row in pixels]
    result = bytearray()
    above = bytes(step * pixels.shape[1])
    for line in lines:
        result.append(kind)
        for i, value in enumerate(line):
            a = line[i - step] if i >= step else 0
            b, c = above[i], above[i - step] if i >= step else 0
            near = min((abs(a + b - c - x), n, x) for n, x in enumerate((a, b, c)))[2]
            result.append((value - (0, a, b, (a + b) // 2, near)[kind]) % 256)
        above = line
    return bytes(result)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kind", range(5))
def test_every_filter_is_read(channels: int, kind: int) -> None:
    pixels = noise(6, 5, channels)
    data = deep_png_file(pixels, rows=filtered_rows(pixels, kind))
    np.testing.assert_array_equal(pixels_of(data), pixels)


@pytest.mark.parametrize("channels", CHANNELS)
def test_interlaced_pictures_are_read(channels: int) -> None:
    pixels = noise(9, 11, channels)
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in [*ADAM7, (1, 0, 2, 1)]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes for row in part)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", 11, 9, 16, color, 0, 0, 1)
    data = png_of_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    np.testing.assert_array_equal(pixels_of(data), pixels)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(CHANNELS), st.integers(0, 9))
def test_what_is_written_is_read(h: int, w: int, channels: int, seed: int) -> None:
    pixels = noise(h, w, channels, seed)
    np.testing.assert_array_equal(pixels_of(encode_picture(pixels, "png")), pixels)


@pytest.mark.parametrize("channels", CHANNELS)
def test_rows_filtered_in_blocks_are_read(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = noise(200, 70, channels)
    whole = encode_picture(pixels, "png")
    monkeypatch.setattr(png, "_BLOCK_BYTES", 1000)
    cut = encode_picture(pixels, "png")
    data = [
        [part for name, part in chunks_of(each) if name == b"IDAT"] for each in (whole, cut)
    ]
    assert b"".join(data[1]) == b"".join(data[0])
    np.testing.assert_array_equal(pixels_of(cut), pixels)


@pytest.mark.parametrize("channels", CHANNELS)
def test_another_reader_sees_the_high_bytes(channels: int) -> None:
    pixels = noise(6, 5, channels)
    with Image.open(io.BytesIO(encode_png16(pixels, MODES[channels], {}))) as image:
        image.load()
        high = np.asarray(image.convert(MODES[channels]) if channels > 1 else image)
    due = pixels[..., 0] if channels == 1 else pixels >> 8
    np.testing.assert_array_equal(high, due)


def test_a_smooth_picture_is_packed_to_less_than_half() -> None:
    rows = np.add.outer(np.arange(128) * 37, np.arange(128) * 53)[..., None]
    data = encode_picture(rows.repeat(3, axis=2).astype(np.uint16), "png")
    assert len(data) < 128 * 128 * 6 / 2


def test_the_chunks_of_a_whole_file_are_listed() -> None:
    data = deep_png_file(noise(1, 1, 1), (b"gAMA", b"\0\0\1\1"))
    assert [name for name, _ in chunks_of(data)] == [b"IHDR", b"gAMA", b"IDAT", b"IEND"]


@pytest.mark.parametrize("length", range(8, 60, 7))
def test_the_chunks_of_a_cut_file_end_in_time(length: int) -> None:
    data = deep_png_file(noise(1, 1, 1))
    assert set(chunks_of(data[:length])) < set(chunks_of(data))
