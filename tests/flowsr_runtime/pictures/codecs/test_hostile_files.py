"""Files made to stop, starve or mislead a reader are refused at once, with one line."""

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from flowsr_runtime import encode_picture, read_picture
from flowsr_runtime.errors import OutputError, PictureError
from flowsr_runtime.pictures.codecs.soundness import check_scans, page_of
from flowsr_runtime.pictures.metadata import Metadata
from flowsr_runtime.pictures.picture import Picture

SOON = 10.0
"""Seconds in which any of these files is refused; the decoders alone would take minutes."""

PIXELS = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)


def tiff(*directories: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """Return a TIFF of directories of (tag, type, count, value)."""
    data, at = b"II*\0", 8
    body = b""
    for i, entries in enumerate(directories):
        size = 2 + 12 * len(entries) + 4
        following = at + size if i + 1 < len(directories) else 0
        packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        body += struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)
        at += size
    return data + struct.pack("<I", 8) + body + tail


def gray(width: int = 1, height: int = 1, compression: int = 1) -> list[Any]:
    """Return the entries of a 16-bit gray image whose strip lies at 0."""
    names = {256: width, 257: height, 258: 16, 259: compression, 262: 1, 273: 0, 277: 1}
    return [(tag, 4, 1, value) for tag, value in {**names, 278: height, 279: 2}.items()]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_refused(data: bytes, words: str) -> None:
    began = time.perf_counter()
    with pytest.raises(PictureError, match=words):
        read_picture(data)
    assert time.perf_counter() - began < SOON


@pytest.mark.parametrize(
    "entry",
    [(256, 4, 2, 8), (256, 2, 1, 65), (256, 5, 1, 8), (257, 3, 0, 1), (277, 4, 9, 8)],
)
def test_a_tag_that_is_not_one_whole_number_is_refused(
    entry: tuple[int, int, int, int],
) -> None:
    others = [one for one in gray(height=10**9) if one[0] != entry[0]]
    assert_refused(
        tiff(sorted([*others, entry])), "Image|SamplesPerPixel must be one whole number"
    )


def test_a_tag_that_stands_twice_is_refused() -> None:
    assert_refused(tiff([*gray(), (256, 4, 1, 10**6)]), "ImageWidth must be one whole number")


def test_a_tiff_of_many_directories_is_refused_at_the_second() -> None:
    assert_refused(tiff(*[gray()] * 4000), "has several frames")


def test_a_tiff_of_many_thumbnails_is_refused() -> None:
    thumbnail = [(254, 4, 1, 1), *gray()]
    assert_refused(tiff(gray(), *[thumbnail] * 2000), "has more than 1000 frames")


def test_a_directory_that_leads_to_itself_ends() -> None:
    data = bytearray(tiff(gray()))
    data[-4:] = struct.pack("<I", 8)
    assert page_of(bytes(data), "a.tif") == 0


@pytest.mark.parametrize("compression", [7, 34712, 50002])  # JPEG, JPEG 2000, JPEG XL
def test_a_strip_that_may_hold_any_size_is_refused(compression: int) -> None:
    words = f"has compression {compression}; convert it|damaged"
    assert_refused(tiff(gray(compression=compression)), words)


def test_a_thumbnail_and_a_mask_are_no_frames(tmp_path: Path) -> None:
    for kind, second in ((1, PIXELS[::4, ::4]), (4, PIXELS[..., 0] > 128)):
        path = tmp_path / f"{kind}.tif"
        with tifffile.TiffWriter(path) as writer:
            writer.write(PIXELS, photometric="rgb")
            photometric = "rgb" if kind == 1 else "miniswhite"
            writer.write(second, photometric=photometric, subfiletype=kind)
        np.testing.assert_array_equal(read_picture(path).pixels, PIXELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_thumbnail_may_come_first(tmp_path: Path, dtype: Any) -> None:
    pixels = PIXELS.astype(dtype)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels[::4, ::4], photometric="rgb", subfiletype=1)
        writer.write(pixels, photometric="rgb")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, pixels)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e12, 0.0, -72.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_resolution_that_makes_no_sense_is_none(value: float, dtype: Any) -> None:
    buffer = io.BytesIO()
    pixels = (PIXELS / 255).astype(dtype)
    tags = [(tag, "d", 1, value, True) for tag in (282, 283)]
    tifffile.imwrite(buffer, pixels, photometric="rgb", extratags=tags)
    picture = read_picture(buffer.getvalue())
    assert picture.metadata.dpi is None
    assert read_picture(encode_picture(picture, "tiff")).metadata.dpi is None


def test_a_resolution_that_bmp_cannot_hold_is_none() -> None:
    chunk = b"pHYs" + struct.pack(">IIB", 2**32 - 1, 2**32 - 1, 1)
    whole = struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = saved(Image.fromarray(PIXELS), "PNG")
    picture = read_picture(data[:33] + whole + data[33:])
    assert picture.metadata.dpi is None
    np.testing.assert_array_equal(read_picture(encode_picture(picture, "bmp")).pixels, PIXELS)


def test_metadata_that_an_encoder_cannot_hold_are_an_error_of_the_picture() -> None:
    picture = Picture(PIXELS, metadata=Metadata(dpi=(1e12, 1e12)))
    with pytest.raises(OutputError, match="cannot be encoded as BMP"):
        encode_picture(picture, "bmp")


def test_a_flipped_bit_in_a_critical_chunk_of_png_is_refused() -> None:
    data = saved(Image.fromarray(PIXELS), "PNG")
    at = data.index(b"IDAT")
    for byte in range(at + 4, at + 40):
        damaged = bytearray(data)
        damaged[byte] ^= 1
        assert_refused(bytes(damaged), "the CRC of IDAT is wrong")


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_png_whose_pixels_end_early_is_refused(depth: Any) -> None:
    whole = encode_picture(PIXELS.astype(depth), "png")
    header = bytearray(whole[:33])
    header[23] += 1  # one more row than there is
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    assert_refused(bytes(header) + whole[33:], "its pixels end early")


def test_an_interlaced_png_is_as_long_as_its_passes() -> None:
    for width, height in ((1, 1), (5, 3), (8, 8), (31, 17)):
        rows = [
            bytes([0]) + b"\7" * (-(-(width - left) // across))
            for left, top, across, down in (
                *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
                *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
            )
            if width > left
            for _ in range(top, height, down)
        ]
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
        parts = {b"IHDR": header, b"IDAT": zlib.compress(b"".join(rows)), b"IEND": b""}
        data = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(body))
            + name
            + body
            + struct.pack(">I", zlib.crc32(name + body))
            for name, body in parts.items()
        )
        assert (read_picture(data).pixels == 7).all()


@pytest.mark.parametrize(
    ("kind", "options", "end"),
    [("PNG", {}, 12), ("JPEG", {}, 2), ("JPEG", {"progressive": True}, 2)],
)
def test_a_file_that_lacks_only_its_end_is_read_with_a_line(
    kind: str, options: dict[str, Any], end: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = saved(Image.fromarray(PIXELS), kind, **options)
    expected = read_picture(data).pixels
    np.testing.assert_array_equal(read_picture(data[:-end]).pixels, expected)
    assert [record.message for record in caplog.records] == [
        "the picture: its end is missing, but none of its pixels"
    ]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_pixels_is_refused(progressive: bool) -> None:
    data = saved(Image.fromarray(PIXELS), "JPEG", progressive=progressive)
    for missing in (8, 40, 200):
        assert_refused(data[:-missing], "is damaged: image file is truncated")


def test_a_jpeg_of_many_scans_is_refused() -> None:
    data = saved(Image.fromarray(PIXELS), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert_refused(data[:-2] + data[last:-2] * 20_000 + b"\xff\xd9", "has more than 100 scans")


def test_scans_inside_a_thumbnail_are_not_counted() -> None:
    data = saved(Image.fromarray(PIXELS), "JPEG")
    thumbnail = b"\xff\xda" * 1000
    segment = b"\xff\xe5" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    check_scans(data[:2] + segment + data[2:], "a.jpg")
    np.testing.assert_array_equal(
        read_picture(data[:2] + segment + data[2:]).pixels, read_picture(data).pixels
    )
