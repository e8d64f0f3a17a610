"""Formats are recognized by first bytes, and named by name or suffix."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import features

from flowsr_runtime.errors import OutputError, PictureError
from flowsr_runtime.pictures.files import encode_picture, read_picture
from flowsr_runtime.pictures.formats import (
    FORMATS,
    SUFFIXES,
    check_format,
    format_named,
    kind_of,
    open_image,
)
from tests.flowsr_runtime.pictures.picture_files import GRAY_ICC


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_tells_its_format(photo: NDArray[np.uint8], name: str) -> None:
    data = encode_picture(photo, name)
    assert kind_of(data) == name
    assert open_image(data, "a file").size == (31, 23)


@pytest.mark.parametrize("data", [b"", b"GIF", b"RIFF1234WAVE", b"\0\0\0\x20ftypheic", b"%PDF"])
def test_other_files_are_of_no_format(data: bytes) -> None:
    assert kind_of(data) is None
    with pytest.raises(
        PictureError, match=r"a file is .*not a PNG, JPEG, WebP, BMP, TIFF, AVIF or GIF"
    ):
        open_image(data, "a file")


def test_every_suffix_names_its_format() -> None:
    named = {suffix: format_named(suffix.upper()).name for suffix in SUFFIXES}
    assert named == SUFFIXES


@pytest.mark.parametrize("name", ["AVIF", "WEBP"])
def test_a_format_that_pillow_was_built_without_is_refused_with_the_remedy(
    photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data = encode_picture(photo, name)
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(OutputError, match=rf"{name} is not in the installed Pillow; pip ins"):
        encode_picture(photo, name)
    with pytest.raises(PictureError, match=rf"is {name}, which the installed Pillow lacks"):
        read_picture(data)


@pytest.mark.parametrize(
    ("name", "arguments", "option"),
    [
        ("JPEG", {"mode": "RGBA"}, "format"),
        (".bmp", {"mode": 2}, "format"),
        ("png", {"depth": "float"}, "depth"),
        ("BMP", {"icc": b"profile"}, "format"),
        ("WEBP", {"mode": "L", "icc": GRAY_ICC}, "format"),
        ("jpg", {"size": (1, 65501)}, "format"),
        ("webp", {"size": (16384, 1)}, "format"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_without_a_picture(
    name: str, arguments: dict[str, Any], option: str
) -> None:
    with pytest.raises(OutputError, match=format_named(name).name) as refused:
        check_format(name, **arguments)
    assert refused.value.option == option
    check_format("tiff", **arguments)
    check_format("JPEG", size=(65500, 1))
    check_format("WEBP", size=(1, 16383))


def test_alpha_without_an_original_is_not_dropped(photo: NDArray[np.uint8]) -> None:
    with pytest.raises(OutputError, match="JPEG holds no alpha"):
        encode_picture(np.dstack([photo, photo[..., 0]]), "JPEG")


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (b"avif\0\0\0\0mif1", "AVIF"),
        (b"mif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"xxxx\0\0\0\0avis", "AVIF"),
        (b"mif1\0\0\0\0mif1heic", "HEIC"),
        (b"heic\0\0\0\0", "HEIC"),
        (b"isom\0\0\0\0mp42", None),
        (b"mp42avif", None),  # the second word is a version
    ],
)
def test_avif_and_heic_are_told_by_all_brands(brands: bytes, kind: str | None) -> None:
    data = (len(brands) + 8).to_bytes(4, "big") + b"ftyp" + brands + bytes(64)
    assert kind_of(data) == (kind if kind == "AVIF" else None)
    if kind == "HEIC":
        with pytest.raises(PictureError, match="a file is HEIC, not a PNG"):
            open_image(data, "a file")


@pytest.mark.parametrize("suffix", [".jfif", ".JPE"])
def test_a_jpeg_of_windows_is_one(suffix: str) -> None:
    assert format_named(suffix).name == "JPEG"
