"""TIFF of every depth is exchanged with other libraries."""

import io
import re
import sys
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import OutputError, PictureError
from flowsr_runtime.installation import pip_command
from flowsr_runtime.pictures.codecs import tiff
from flowsr_runtime.pictures.files import encode_picture, read_picture

DTYPES = [np.uint8, np.uint16, np.float32]
PHOTOMETRIC = {1: "minisblack", 2: "minisblack", 3: "rgb", 4: "rgb"}


def noise(h: int, w: int, channels: int, dtype: type[Any], seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).random((h, w, channels))
    top = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1)
    return (values * top).astype(dtype)


def by_tifffile(pixels: NDArray[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    channels = pixels.shape[2]
    extra = ["unassalpha"] if channels % 2 == 0 else None
    options = {"photometric": PHOTOMETRIC[channels], "extrasamples": extra, **options}
    tifffile.imwrite(buffer, pixels if channels > 1 else pixels[..., 0], **options)
    return buffer.getvalue()


def pixels_of(data: bytes) -> NDArray[Any]:
    pixels = read_picture(data).pixels
    return pixels.reshape(*pixels.shape[:2], -1)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4), st.sampled_from(DTYPES))
def test_what_is_written_others_read(h: int, w: int, channels: int, dtype: type[Any]) -> None:
    pixels = noise(h, w, channels, dtype)
    read = tifffile.imread(io.BytesIO(encode_picture(pixels, "tiff")))
    np.testing.assert_array_equal(read.reshape(pixels.shape), pixels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_what_others_write_is_read(channels: int, dtype: type[Any]) -> None:
    pixels = noise(9, 7, channels, dtype)
    np.testing.assert_array_equal(pixels_of(by_tifffile(pixels)), pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "predictor": True, "rowsperstrip": 2},
        {"byteorder": ">"},
        {"byteorder": ">", "compression": "zlib"},
        {"tile": (16, 16)},
        {"bigtiff": True},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_files_are_read_however_they_are_packed(
    channels: int, dtype: type[Any], options: dict[str, Any]
) -> None:
    pixels = noise(20, 18, channels, dtype)
    np.testing.assert_array_equal(pixels_of(by_tifffile(pixels, **options)), pixels)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_channels_one_after_another_are_read(dtype: type[Any]) -> None:
    pixels = noise(9, 7, 3, dtype)
    buffer = io.BytesIO()
    planes = np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(buffer, planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(pixels_of(buffer.getvalue()), pixels)


def test_half_floats_become_floats() -> None:
    pixels = noise(4, 5, 3, np.float16)
    read = pixels_of(by_tifffile(pixels))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, pixels)


def test_a_channel_that_is_not_alpha_is_left_out() -> None:
    pixels = noise(4, 5, 4, np.float32)
    read = pixels_of(by_tifffile(pixels, extrasamples=["unspecified"]))
    np.testing.assert_array_equal(read, pixels[..., :3])


@pytest.mark.parametrize(
    ("dtype", "options", "words"),
    [
        (np.float64, {}, "RGB channels of float64"),
        (np.uint32, {}, "RGB channels of uint32"),
        (np.uint16, {"extrasamples": ["assocalpha"]}, "with premultiplied alpha"),
        (np.float32, {"photometric": "separated"}, "SEPARATED channels of float32"),
        (np.uint16, {"photometric": "miniswhite"}, "MINISWHITE channels of"),
    ],
)
def test_other_kinds_are_refused_with_the_remedy(
    dtype: type[Any], options: dict[str, Any], words: str
) -> None:
    channels = 1 if "miniswhite" in options.values() else 4 if options else 3
    data = by_tifffile(noise(4, 5, channels, np.float32).astype(dtype), **options)
    with pytest.raises(PictureError, match=f"{words}.*; convert it to gray, RGB or RGBA of 8"):
        read_picture(data)


def test_without_tifffile_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_picture(noise(4, 5, 3, np.float32), "tiff")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(PictureError, match=re.escape(f"{pip_command('tiff')}, or convert it")):
        read_picture(data)


def test_without_tifffile_sixteen_bit_colors_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(4, 5, 3, np.uint16)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    np.testing.assert_array_equal(pixels_of(encode_picture(pixels, "tiff")), pixels)


@pytest.mark.parametrize("value", [-0.25, 1.5, np.nan])
def test_floats_out_of_range_are_refused(value: float) -> None:
    pixels = noise(4, 5, 3, np.float32)
    pixels[1, 2, 0] = value
    with pytest.raises(PictureError, match=r"has values from .* scale them to \[0, 1\]"):
        read_picture(encode_picture(pixels, "tiff"))


def test_several_frames_are_refused() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((2, 4, 5, 3), np.float32), photometric="rgb")
    with pytest.raises(PictureError, match="has several frames; give a file with one"):
        read_picture(buffer.getvalue())


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    data = encode_picture(noise(4, 5, 3, np.float32), "tiff")
    with pytest.raises(PictureError, match="has 20 pixels, more than 19"):
        read_picture(data, max_pixels=19)


def test_strips_are_cut_and_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "_STRIP_BYTES", 100)
    pixels = noise(23, 7, 3, np.uint16)
    data = encode_picture(pixels, "tiff")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert len(file.pages[0].dataoffsets) == 12
    np.testing.assert_array_equal(pixels_of(data), pixels)


def test_what_a_tiff_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "_MOST_BYTES", 50)
    with pytest.raises(OutputError, match="a TIFF is at most 4 GiB; write PNG"):
        encode_picture(noise(9, 9, 3, np.uint16), "tiff")


def test_pillow_reads_what_is_written_in_eight_bits() -> None:
    pixels = noise(9, 7, 4, np.uint8)
    with Image.open(io.BytesIO(encode_picture(pixels, "tiff"))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
