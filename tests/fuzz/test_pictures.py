"""Mutated picture files are read or refused: with one error, soon, in little memory."""

import io
import time
from typing import Any

import numpy as np
import tifffile
from hypothesis import given
from PIL import Image

from flowsr_runtime import read_picture
from flowsr_runtime.errors import MemoryBudgetError, PictureError
from flowsr_runtime.pictures.animation import read_animation
from flowsr_runtime.tiling.memory import peak_bytes
from tests.flowsr_runtime.pictures.picture_files import ink_profile
from tests.fuzz.mutations import FUZZ, MOST_BYTES, SECONDS, mutated, refusal

PIXELS = np.arange(20 * 24 * 3, dtype=np.uint8).reshape(20, 24, 3)
MOST_PIXELS = 4_000_000
MOVING = {"save_all": True, "append_images": [Image.new("RGB", (24, 20), "red")]}
INK_PROFILE = ink_profile({(0, 0, 0, 0): (100, 0, 0)})


def seeds() -> list[bytes]:
    """Return a good file of each format and of several kinds."""
    image = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[270], exif[282], exif[283] = "sea", 300.0, 300.0
    rows: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (image, "PNG", {"exif": exif, "dpi": (300, 300)}),
        (image.convert("P"), "PNG", {}),
        (image, "JPEG", {"exif": exif, "comment": b"sea"}),
        (image, "JPEG", {"progressive": True}),
        (image, "WEBP", {"lossless": True, "exif": exif}),
        (image, "AVIF", {}),
        (image, "BMP", {}),
        (image, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        (image, "TIFF", {"compression": "jpeg"}),
        *((image, kind, MOVING) for kind in ("GIF", "PNG", "WEBP")),
        (image.convert("CMYK"), "JPEG", {"icc_profile": INK_PROFILE}),
    ]
    files = [saved(*row) for row in rows]
    for dtype, compression in ((np.uint16, "zlib"), (np.float32, "lzma")):
        buffer = io.BytesIO()
        values = (PIXELS / (255 if dtype == np.float32 else 1)).astype(dtype)
        tifffile.imwrite(buffer, values, photometric="rgb", compression=compression)
        files.append(buffer.getvalue())
    return files


def saved(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SEEDS = seeds()


def test_the_files_are_good_before_they_are_mutated() -> None:
    assert {read_picture(data).size for data in SEEDS} == {(20, 24)}


def pixels_of(data: bytes) -> None:
    height, width = read_picture(data, max_pixels=MOST_PIXELS).size
    assert 0 < height * width <= MOST_PIXELS
    frames = read_animation(data, max_pixels=MOST_PIXELS).frames
    assert 0 < sum(frame.size[0] * frame.size[1] for frame in frames) <= MOST_PIXELS


@given(mutated(SEEDS))
@FUZZ
def _read(data: bytes) -> None:
    began = time.perf_counter()
    message = refusal(lambda: pixels_of(data), PictureError, MemoryBudgetError)
    assert "\n" not in (message or "")
    assert time.perf_counter() - began < SECONDS


def test_mutated_pictures_are_read_or_refused() -> None:
    before = peak_bytes()
    _read()
    after = peak_bytes()
    assert before is not None
    assert after is not None
    assert after - before < MOST_BYTES
