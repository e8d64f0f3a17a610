"""Picture files keep their data; bad files and outputs fail in one line."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import OutputError, PictureError, ShapeError
from flowsr_runtime.pictures.files import (
    Picture,
    check_output,
    encode_picture,
    read_picture,
    write_picture,
)
from tests.flowsr_runtime.pictures.picture_files import deep_png_file

Photo = NDArray[np.uint8]
ONE_LINE = r"^[^\n]*$"
# What 4:4:4 JPEG at quality 95 may change of noise, in 8-bit steps.
JPEG_STEPS = 24


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a Pillow image under a name."""

    def saver(picture: Image.Image, name: str, **options: Any) -> Path:
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return saver


def png_that_claims(width: int, height: int) -> bytes:
    """Return the beginning of a PNG of any size."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 0) + b"IDAT" + bytes(4)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.tiff", "a.webp", "A.PNG"])
def test_a_lossless_picture_comes_back(tmp_path: Path, photo: Photo, name: str) -> None:
    write_picture(tmp_path / name, photo)
    np.testing.assert_array_equal(read_picture(tmp_path / name).rgb, photo)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_colors_take_the_mode_of_their_original(
    save: Callable[..., Path], tmp_path: Path, photo: Photo, mode: str
) -> None:
    original = Image.fromarray(np.dstack([photo, photo[..., 0]])).convert(mode)
    picture = read_picture(save(original, "a.png"))
    write_picture(tmp_path / "b.png", picture.rgb, like=picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels, picture.pixels)


def test_a_palette_with_transparency_keeps_it(save: Callable[..., Path], photo: Photo) -> None:
    palette = Image.fromarray(photo).quantize(16)
    picture = read_picture(save(palette, "a.png", transparency=3))
    assert picture.mode == "RGBA"
    assert picture.alpha is not None
    np.testing.assert_array_equal(picture.alpha == 0, np.asarray(palette) == 3)


def test_alpha_is_resized_to_the_result(tmp_path: Path) -> None:
    alpha = np.array([[0, 255]], dtype=np.uint8)
    like = Picture(np.dstack([np.zeros((1, 2, 3), np.uint8), alpha]))
    write_picture(tmp_path / "a.png", np.zeros((1, 4, 3), np.uint8), like=like)
    written = read_picture(tmp_path / "a.png").alpha
    assert written is not None
    assert written.tolist() == [[0, 64, 191, 255]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.png", r"none\.png does not exist"),
        (".", "cannot be read: Is a directory"),
        ("empty.png", r"empty\.png is empty"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(PictureError, match=message):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("content", [b"hello", b"GIF89a" + bytes(50), b"\x89PNG\r\n\x1a\n"])
def test_what_is_not_a_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    message = (
        r"a\.png is (.*not a PNG, JPEG, WebP, BMP, TIFF, AVIF or GIF picture|damaged: .*)$"
    )
    with pytest.raises(PictureError, match=message):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_picture_is_refused(
    tmp_path: Path, photo: Photo, name: str, share: float
) -> None:
    write_picture(tmp_path / name, np.tile(photo, (8, 8, 1)))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PictureError, match=r"(is damaged: .*|picture)$") as caught:
        read_picture(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [0, 255, 65535])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_told_by_the_file_and_not_by_its_values(
    channels: int, value: int
) -> None:
    pixels = np.full((3, 2, channels), value, np.uint16)
    picture = read_picture(deep_png_file(pixels))
    assert picture.depth == 16
    np.testing.assert_array_equal(picture.rgb, value)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_a_deep_gray_tiff_of_pillow_is_read(
    save: Callable[..., Path], dtype: type[np.generic]
) -> None:
    pixels = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3).astype(dtype)
    picture = read_picture(save(Image.fromarray(pixels), "a.tif"))
    assert picture.mode == "L"
    np.testing.assert_array_equal(picture.pixels, pixels)


def test_other_modes_are_refused(save: Callable[..., Path], photo: Photo) -> None:
    whole = save(Image.fromarray(np.zeros((2, 2), np.int32)), "a.tif")
    with pytest.raises(PictureError, match=r"a\.tif has 1 MINISBLACK channels of int32; conv"):
        read_picture(whole)
    lab = save(Image.fromarray(photo).convert("LAB"), "lab.tif")
    with pytest.raises(PictureError, match=r"lab\.tif is LAB; convert it to RGB"):
        read_picture(lab)


def test_several_pages_are_refused(save: Callable[..., Path], photo: Photo) -> None:
    first, second = Image.fromarray(photo), Image.fromarray(255 - photo)
    path = save(first, "a.tif", save_all=True, append_images=[second])
    with pytest.raises(PictureError, match="has several frames; give a file with one"):
        read_picture(path)


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_a_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png_that_claims(side, side))
    with pytest.raises(PictureError, match=r"a\.png has .*more than 178956970"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("limit", [None, 400])  # Pillow warns above it, and fails at twice
def test_the_limit_is_ours_and_not_pillows(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    (tmp_path / "a.png").write_bytes(png_that_claims(20_000, 20_000))
    with pytest.raises(PictureError, match="more than 178956970"):
        read_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png", photo)
    assert read_picture(tmp_path / "b.png").rgb.shape == photo.shape


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        OutputError,
        match=r"must end in one of \.avif, \.bmp, \.jfif, \.jpe, \.jpeg, \.jpg,",
    ):
        check_output(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("no/a.png", "no folder .*no"), ("folder.png", "it is a folder")],
)
def test_a_place_that_cannot_be_written_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match=f"cannot be written: {message}"):
        check_output(tmp_path / name, force=True)


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"cannot be written: folder .* is read-only"):
        check_output(tmp_path / "a.png")


def test_a_file_is_not_overwritten_without_force(tmp_path: Path, photo: Photo) -> None:
    write_picture(tmp_path / "a.png", photo)
    with pytest.raises(OutputError, match=r"a\.png exists"):
        write_picture(tmp_path / "a.png", photo[::2])
    write_picture(tmp_path / "a.png", photo[::2], force=True)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, photo[::2])


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_an_output_error(tmp_path: Path, photo: Photo) -> None:
    with pytest.raises(OutputError, match=r"a\.png cannot be written: No space left on device"):
        write_picture(tmp_path / "a.png", photo)


def test_an_encoder_that_fails_is_an_output_error(
    tmp_path: Path, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OutputError, match="cannot be encoded as PNG: encoder error -2"):
        write_picture(tmp_path / "a.png", photo)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 5), (0, 4, 3), (2, 2, 2, 2)])
def test_only_pictures_are_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"picture must be \(H, W\) or \(H, W, 1 to 4\), got"):
        write_picture(tmp_path / "a.png", np.zeros(shape, np.uint8))


def test_a_camera_picture_with_a_preview_is_read(tmp_path: Path, photo: Photo) -> None:
    buffer = io.BytesIO()
    main, preview = Image.fromarray(photo), Image.fromarray(photo[::2, ::2])
    main.save(buffer, format="MPO", save_all=True, append_images=[preview])
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    assert read_picture(tmp_path / "a.jpg").rgb.shape == photo.shape


@pytest.mark.parametrize("format", ["JPEG", "BMP"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_that_hides_nothing_need_not_be_held(
    photo: Photo, format: str, channels: int
) -> None:
    colors = photo[..., : channels - 1]
    opaque = np.dstack([colors, np.full(photo.shape[:2], 255, np.uint8)])
    small = Picture(opaque)
    large = np.repeat(np.repeat(photo, 2, axis=0), 2, axis=1)
    for written in (
        encode_picture(opaque, format),
        encode_picture(large, format, like=small),
    ):
        assert read_picture(written).alpha is None
    opaque[0, 0, -1] = 254
    with pytest.raises(OutputError, match=f"{format} holds no alpha"):
        encode_picture(opaque, format)


def test_a_name_that_is_too_long_is_one_error_before_work(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300 + ".png")
    with pytest.raises(OutputError, match="cannot be written: File name too long"):
        check_output(path)
    with pytest.raises(PictureError, match="cannot be read: File name too long"):
        read_picture(path)


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF"])
def test_a_lower_quality_makes_a_smaller_file(photo: Photo, name: str) -> None:
    sizes = [
        len(encode_picture(photo, name, quality=quality)) for quality in (20, 80, 100, None)
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[3] > sizes[1]


@pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP"])
def test_a_quality_of_a_lossless_format_is_refused(photo: Photo, name: str) -> None:
    with pytest.raises(OutputError, match=f"quality is for JPEG, .*, got 90 for {name}"):
        encode_picture(photo, name, quality=90)


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_out_of_range_is_refused(photo: Photo, quality: int) -> None:
    with pytest.raises(OutputError, match=f"quality must be from 1 to 100, got {quality}"):
        encode_picture(photo, "JPEG", quality=quality)
