"""Animations: the first frame, or all of them."""

import io
import logging
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import OutputError, PictureError
from flowsr_runtime.pictures.animation import (
    Animation,
    encode_animation,
    read_animation,
    write_animation,
)
from flowsr_runtime.pictures.files import Picture, read_picture
from tests.flowsr_runtime.pictures.picture_files import RGB_ICC, deep_png_file, png_of_chunks

TIMES = (100.0, 250.0, 300.0)


def frames(count: int = 3) -> list[NDArray[np.uint8]]:
    """Return frames, (6, 8, 4), the first transparent in two columns."""
    arrays = [np.full((6, 8, 4), (60 * index, 0, 0, 255), np.uint8) for index in range(count)]
    arrays[0][:, 2:4, 3] = 0
    return arrays


def animation_file(kind: str, arrays: list[NDArray[np.uint8]], **options: Any) -> bytes:
    """Return an animation by Pillow, lossless but for the palette of GIF."""
    buffer = io.BytesIO()
    first, *rest = (Image.fromarray(array) for array in arrays)
    options = {"duration": [int(time) for time in TIMES], "loop": 3, **options}
    options |= {"lossless": True, "exact": True} if kind == "WEBP" else {}
    first.save(buffer, kind, save_all=True, append_images=rest, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_first_frame_is_read_with_one_line(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    picture = read_picture(animation_file(kind, frames()))
    assert (picture.size, picture.mode) == ((6, 8), "RGBA")
    assert [record.message for record in caplog.records] == [
        "the picture: only the first of its frames is read"
    ]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_all_frames_are_read_with_their_times(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    content = read_animation(animation_file(kind, frames()))
    assert caplog.records == []
    assert content.durations == TIMES
    assert content.loop == {"GIF": 4, "AVIF": 0}.get(kind, 3)
    assert [frame.pixels.shape for frame in content.frames] == [(6, 8, 4)] * 3
    for frame, due in zip(content.frames, frames(), strict=True):
        np.testing.assert_array_equal(frame.pixels[..., 3], due[..., 3])
        visible = due[..., 3] > 0
        np.testing.assert_allclose(
            frame.pixels[visible].astype(int), due[visible].astype(int), atol=3
        )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("left", [0, 2])
def test_what_is_written_is_read_again(kind: str, left: int) -> None:
    arrays = frames()
    arrays[0][:, left:4, 3] = 0  # at the edge libwebp would cut it off
    head, *rest = (Picture(array) for array in arrays)
    given = Animation((replace(head, icc=RGB_ICC), *rest), TIMES, 2)
    content = read_animation(encode_animation(given, kind))
    assert (content.durations, content.loop) == (TIMES, 2)
    assert content.frames[0].icc == RGB_ICC
    for frame, due in zip(content.frames, arrays, strict=True):
        np.testing.assert_array_equal(frame.pixels, due)


def test_gray_and_color_frames_become_one_mode() -> None:
    gray = Image.new("L", (8, 6), 90).convert("P")
    red = Image.new("RGB", (8, 6), (200, 0, 0))
    buffer = io.BytesIO()
    gray.save(buffer, "GIF", save_all=True, append_images=[red])
    content = read_animation(buffer.getvalue())
    assert {frame.mode for frame in content.frames} == {"RGB"}


def test_the_picture_of_other_decoders_is_no_frame_of_a_png() -> None:
    shown = Image.new("RGB", (8, 6), "blue")
    moving = [Image.new("RGB", (8, 6), color) for color in ("red", "lime")]
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", save_all=True, append_images=moving, default_image=True)
    assert read_picture(buffer.getvalue()).pixels[0, 0].tolist() == [0, 0, 255]
    content = read_animation(buffer.getvalue())
    colors = [frame.pixels[0, 0].tolist() for frame in content.frames]
    assert colors == [[255, 0, 0], [0, 255, 0]]


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "GIF"])
def test_a_picture_of_one_frame_is_one_frame(kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, kind)
    assert len(read_animation(buffer.getvalue()).frames) == 1


def test_a_format_of_one_frame_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    content = Animation(tuple(Picture(array[..., :3]) for array in frames()), TIMES)
    with pytest.raises(OutputError, match=r"a\.jpg cannot be written: JPEG holds one frame"):
        write_animation(tmp_path / "a.jpg", content)
    assert list(tmp_path.iterdir()) == []


def test_frames_count_together_against_the_limit() -> None:
    data = animation_file("WEBP", frames())
    assert len(read_animation(data, max_pixels=144).frames) == 3
    with pytest.raises(PictureError, match="has frames of 144 pixels, more than 143"):
        read_animation(data, max_pixels=143)


def test_frames_of_sixteen_bits_are_refused() -> None:
    control = (b"acTL", (2).to_bytes(4, "big") + bytes(4))
    data = deep_png_file(np.full((2, 3, 3), 300, np.uint16), control)
    with pytest.raises(PictureError, match="several frames of 16 bits"):
        read_animation(data)
    assert read_picture(data).depth == 16


def test_chunks_of_an_animation_cannot_slow_down_the_texts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    header = b"\0\0\0\1\0\0\0\1\x08\0\0\0\0"
    data = png_of_chunks(
        (b"IHDR", header),
        (b"acTL", (10**6).to_bytes(4, "big") + bytes(4)),
        (b"IDAT", zlib.compress(b"\0\0")),
        (b"tEXt", b"Title\0sea"),
        (b"IEND", b""),
    )
    with caplog.at_level(logging.WARNING):
        assert read_picture(data).metadata.text == (("Title", "sea"),)
    assert "only the first of its frames is read" in caplog.text
