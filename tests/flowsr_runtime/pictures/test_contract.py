"""The picture contract: mode, depth, size, profile and pixels out, for everything in.

Every kind of file goes through a model that doubles each pixel and into every format and
depth. What comes out is compared with the tables of docs/guides/pictures.md, restated here.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import OutputError
from flowsr_runtime.pictures.files import Picture, encode_picture, read_picture
from flowsr_runtime.upscaling.upscaler import Upscaler
from tests.doubles.doubling import Doubling
from tests.flowsr_runtime.pictures.picture_files import GRAY_ICC, RGB_ICC, deep_png_file

SIZES = [(1, 1), (1, 4), (3, 1), (3, 2)]
EIGHT, SIXTEEN, FLOAT = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)
TOP = {EIGHT: 255, SIXTEEN: 65535, FLOAT: 1}
DTYPES: dict[Any, np.dtype[Any]] = {8: EIGHT, 16: SIXTEEN, "float": FLOAT}
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}

# What each format holds: modes, depths, profile.
HOLDS: dict[str, tuple[set[str], set[Any], bool]] = {
    "PNG": ({"L", "LA", "RGB", "RGBA"}, {8, 16}, True),
    "JPEG": ({"L", "RGB"}, {8}, True),
    "WEBP": ({"RGB", "RGBA"}, {8}, True),
    "TIFF": ({"L", "LA", "RGB", "RGBA"}, {8, 16, "float"}, True),
    "AVIF": ({"RGB", "RGBA"}, {8}, True),
    "BMP": ({"L", "RGB"}, {8}, False),
}
LOSSY = {"JPEG", "AVIF"}
# What AVIF and JPEG may change of a few noisy pixels, in 8-bit steps on average.
LOSSY_STEPS = 40


@dataclass(frozen=True)
class Kind:
    """A kind of file: its format, what it is read as, and how it is made."""

    format: str
    mode: str
    depth: Any
    variant: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.format}-{self.mode}-{self.depth}{self.variant}"


KINDS = [
    *(Kind("PNG", mode, depth) for mode in CHANNELS for depth in (8, 16)),
    *(Kind("TIFF", mode, depth) for mode in CHANNELS for depth in (8, 16, "float")),
    *(Kind("JPEG", mode, 8) for mode in ("L", "RGB")),
    *(Kind("WEBP", mode, 8, options={"lossless": True}) for mode in ("RGB", "RGBA")),
    *(Kind("AVIF", mode, 8) for mode in ("RGB", "RGBA")),
    *(Kind("BMP", mode, 8) for mode in ("L", "RGB")),
    Kind("PNG", "RGB", 8, "-palette"),
    Kind("PNG", "RGBA", 8, "-palette", {"transparency": b"\x80" * 256}),
    Kind("PNG", "L", 8, "-bilevel"),
    Kind("PNG", "LA", 8, "-key", {"transparency": 300}),
    Kind("PNG", "RGBA", 8, "-key", {"transparency": (300, 0, 0)}),
    Kind("PNG", "LA", 16, "-key"),
    Kind("PNG", "RGBA", 16, "-key"),
    Kind("TIFF", "RGB", 8, "-palette"),
    Kind("BMP", "RGB", 8, "-palette"),
]


def noise(size: tuple[int, int], channels: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a picture in the upper half of the range, so that nothing is hidden."""
    values = np.random.default_rng(size[0] * 9 + size[1]).uniform(0.5, 1, (*size, channels))
    return (values * TOP[dtype]).astype(dtype)


def made(kind: Kind, size: tuple[int, int], icc: bytes | None) -> bytes:
    """Return a file of a kind."""
    dtype = DTYPES[kind.depth]
    shown = CHANNELS[kind.mode] - ("key" in kind.variant)
    pixels = noise(size, shown, dtype)
    if kind.format == "TIFF" and not kind.variant:
        return tiff_file(pixels, icc)
    profile = {} if icc is None else {"icc_profile": icc}
    if dtype == SIXTEEN:
        packed = Image.new("L", (1, 1))
        buffer = io.BytesIO()
        packed.save(buffer, format="PNG", **profile)
        held = [each for each in chunks(buffer.getvalue()) if each[0] == b"iCCP"]
        key = [(b"tRNS", bytes(2 * shown))] if "key" in kind.variant else []
        return deep_png_file(pixels, *held, *key)
    image = Image.fromarray(pixels[..., 0] if shown == 1 else pixels)
    if "palette" in kind.variant:
        image = image.convert("RGB").quantize(16)
    if "bilevel" in kind.variant:
        image = image.convert("1")
    buffer = io.BytesIO()
    image.save(buffer, format=kind.format, **kind.options, **profile)
    return buffer.getvalue()


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def tiff_file(pixels: NDArray[Any], icc: bytes | None) -> bytes:
    buffer = io.BytesIO()
    channels = pixels.shape[2]
    tifffile.imwrite(
        buffer,
        pixels if channels > 1 else pixels[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        extrasamples=["unassalpha"] if channels % 2 == 0 else None,
        iccprofile=icc,
    )
    return buffer.getvalue()


def due(picture: Picture, target: str, depth: Any) -> tuple[str, Any] | None:
    """Return mode and depth of a result, None if it is refused."""
    modes, depths, profile = HOLDS[target]
    mode = picture.mode
    if target in ("WEBP", "AVIF"):  # which have no gray, and no profile of gray
        if mode in ("L", "LA") and picture.icc is not None:
            return None
        opaque = bool(as_rgba(picture.pixels)[..., 3].min() == 1)
        mode = "RGB" if opaque else "RGBA"  # alpha that hides nothing is not written
    if target in ("JPEG", "BMP") and as_rgba(picture.pixels)[..., 3].min() == 1:
        mode = "L" if mode in ("L", "LA") else "RGB"
    if mode not in modes or depth not in depths or (picture.icc and not profile):
        return None
    return mode, depth


def outcome(
    large: NDArray[Any], picture: Picture, target: str, depth: Any
) -> tuple[str, Any] | None:
    """Return mode and depth of what is written, after a look at all the rest of it."""
    try:
        data = encode_picture(large, target, like=picture, depth=depth)
    except OutputError:
        return None
    result = read_picture(data)
    assert result.icc == picture.icc
    seen, meant = as_rgba(result.pixels), as_rgba(large)
    assert seen.shape == meant.shape
    error = np.abs(seen - meant) * 255
    assert error.mean() <= (LOSSY_STEPS if target in LOSSY else 0.5)
    assert target in LOSSY or error.max() <= 0.5 + 0.01
    return result.mode, result.depth


def as_rgba(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return a picture of any kind as RGBA in [0, 1]."""
    values = pixels.reshape(*pixels.shape[:2], -1) / TOP[pixels.dtype]
    count = values.shape[2]
    colors = values[..., :1].repeat(3, axis=2) if count < 3 else values[..., :3]
    alpha = values[..., -1:] if count % 2 == 0 else np.ones_like(values[..., :1])
    return np.concatenate([colors, alpha], axis=2)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_comes_out_is_what_the_tables_say(kind: Kind, bundles: dict[str, Bundle]) -> None:
    upscaler = Upscaler(bundles["fixed"], Doubling())
    profile = GRAY_ICC if kind.mode in ("L", "LA") else RGB_ICC
    profiles = [None, profile] if HOLDS[kind.format][2] else [None]
    wrong = []
    cases = 0
    for size, icc in itertools.product(SIZES, profiles):
        picture = read_picture(made(kind, size, icc))
        assert (picture.mode, picture.depth, picture.icc) == (kind.mode, kind.depth, icc)
        assert picture.pixels.shape[:2] == size
        large = upscaler.upscale(picture.pixels)
        assert large.shape[:2] == (2 * size[0], 2 * size[1])
        colors = 1 if kind.mode in ("L", "LA") else 3
        first = large.reshape(*large.shape[:2], -1)[::2, ::2, :colors]
        np.testing.assert_array_equal(first, picture.rgb[..., :colors])
        for target, depth in itertools.product(HOLDS, DTYPES):
            cases += 1
            found = outcome(large, picture, target, depth)
            wrong += (
                [(size, target, depth, found)] if found != due(picture, target, depth) else []
            )
    assert wrong == []
    assert cases == len(SIZES) * len(profiles) * len(HOLDS) * len(DTYPES)


def test_there_are_enough_cases() -> None:
    pairs = sum(2 if HOLDS[kind.format][2] else 1 for kind in KINDS)
    cases = pairs * len(SIZES) * len(HOLDS) * len(DTYPES)
    page = Path(__file__).parents[3] / "docs" / "guides" / "pictures.md"
    assert cases >= 500
    assert f"every format and depth, {cases} cases" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_pixels_of_a_file_are_read_as_they_are(kind: Kind) -> None:
    picture = read_picture(made(kind, (3, 2), None))
    shown = CHANNELS[kind.mode] - ("key" in kind.variant)
    pixels = noise((3, 2), shown, DTYPES[kind.depth])
    reference = as_rgba(pixels)
    seen = as_rgba(picture.pixels)
    steps = np.abs(seen - reference)[..., :3].mean() * 255
    tolerance = {"palette": 30, "bilevel": 130}.get(kind.variant.strip("-"), 0)
    assert steps <= (LOSSY_STEPS if kind.format in LOSSY else tolerance)
