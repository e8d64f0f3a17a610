"""Pictures as bytes; data that a format cannot hold is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.errors import OutputError, PictureError, ShapeError
from flowsr_runtime.pictures.files import (
    Picture,
    check_output,
    encode_picture,
    read_picture,
    write_picture,
)

Photo = NDArray[np.uint8]


@pytest.mark.parametrize("format", ["PNG", "png", ".png"])
def test_bytes_go_in_and_come_out(photo: Photo, format: str) -> None:
    data = encode_picture(photo, format)
    np.testing.assert_array_equal(read_picture(data).rgb, photo)
    np.testing.assert_array_equal(read_picture(io.BytesIO(data)).rgb, photo)


def test_what_is_written_is_what_is_encoded(tmp_path: Path, photo: Photo) -> None:
    write_picture(tmp_path / "a.webp", photo)
    assert (tmp_path / "a.webp").read_bytes() == encode_picture(photo, "webp")


def test_a_picture_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"^the picture is empty$"):
        read_picture(b"")
    (tmp_path / "a.png").write_bytes(b"hello")
    opened = (tmp_path / "a.png").open("rb")
    with opened, pytest.raises(PictureError, match=r"a\.png is not a PNG"):
        read_picture(opened)


def test_another_format_is_refused(photo: Photo) -> None:
    with pytest.raises(OutputError, match=r"format must be one of PNG, JPEG, .*, got 'gif'"):
        encode_picture(photo, "gif")


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "BMP"])
def test_sixteen_bits_are_not_cut_in_silence(format: str) -> None:
    pixels = np.full((2, 2, 3), 40_000, np.uint16)
    message = f"{format} holds no 16 bits per channel; write PNG or TIFF, or give depth 8"
    with pytest.raises(OutputError, match=message):
        encode_picture(pixels, format)
    assert read_picture(encode_picture(pixels, format, depth=8)).depth == 8


def test_floats_are_not_cut_in_silence(tmp_path: Path) -> None:
    pixels = np.full((2, 2, 3), 0.25, np.float32)
    with pytest.raises(OutputError, match="PNG holds no float channels; write TIFF, or give"):
        check_output(tmp_path / "a.png", like=Picture(pixels))
    check_output(tmp_path / "a.png", like=Picture(pixels), depth=16)
    write_picture(tmp_path / "a.png", pixels, depth=16)
    assert read_picture(tmp_path / "a.png").rgb[0, 0].tolist() == [16384] * 3


def test_a_picture_of_other_channels_than_its_original_is_refused(photo: Photo) -> None:
    with pytest.raises(ShapeError, match="RGBA as its original, got L"):
        encode_picture(photo[..., 0], "PNG", like=Picture(np.dstack([photo, photo[..., :1]])))


def test_a_picture_at_another_depth_is_deeper_or_itself(photo: Photo) -> None:
    picture = Picture(np.dstack([photo, photo[..., :1]]))
    deep = picture.promote_depth(16)
    assert (deep.depth, deep.promote_depth(8).depth, deep.mode) == (16, 16, "RGBA")
    np.testing.assert_array_equal(deep.pixels, np.dstack([photo, photo[..., 0]]) * 257.0)
