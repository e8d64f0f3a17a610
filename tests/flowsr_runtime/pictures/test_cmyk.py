"""Pictures in inks become RGB, by their profile or by a stated formula."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.pictures.files import read_picture
from tests.flowsr_runtime.pictures.picture_files import RGB_ICC, ink_profile

INKS = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 128, 255, 64], [0, 0, 0, 255]]], np.uint8)
"""Paper, cyan, an orange and black, (1, 4, 4)."""

PLAIN = (1 - INKS[..., :3] / 255) * (1 - INKS[..., 3:] / 255) * 255


def ink_file(kind: str, icc: bytes | None = None) -> bytes:
    """Return a file of large fields of the inks, (16, 64)."""
    buffer = io.BytesIO()
    fields = INKS.repeat(16, axis=0).repeat(16, axis=1)
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = Image.fromarray(fields, "CMYK")
    image.save(buffer, kind, icc_profile=icc, dpi=(300, 300), **options)
    return buffer.getvalue()


def colors_of(pixels: NDArray[Any]) -> NDArray[np.float64]:
    return pixels[8:9, 8::16].astype(np.float64)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_without_a_profile_are_converted_as_is_said(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    picture = read_picture(ink_file(kind))
    assert (picture.mode, picture.icc, picture.metadata.dpi) == ("RGB", None, (300, 300))
    np.testing.assert_allclose(colors_of(picture.pixels), PLAIN, atol=3)
    assert [record.message for record in caplog.records] == [
        "the picture: its CMYK is converted as (1 - ink) (1 - black), for it states no profile"
    ]


@pytest.mark.parametrize("icc", [RGB_ICC, RGB_ICC[:16] + b"CMYK" + RGB_ICC[20:]])
def test_a_profile_that_is_not_of_inks_is_not_used(
    icc: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    picture = read_picture(ink_file("TIFF", icc))
    assert picture.icc is None
    np.testing.assert_allclose(colors_of(picture.pixels), PLAIN, atol=1)
    assert len(caplog.records) == 1


def test_inks_are_converted_by_their_profile(caplog: pytest.LogCaptureFixture) -> None:
    inks = {(0, 0, 0, 0): (100, 0, 0), (1, 0, 0, 0): (53, 80, 67)}  # "cyan" is printed in red
    picture = read_picture(ink_file("JPEG", ink_profile(inks)))
    colors = colors_of(picture.pixels)[0]
    np.testing.assert_allclose(colors[[0, 1, 3]], [[255] * 3, [255, 0, 0], [0] * 3], atol=8)
    assert picture.icc is not None
    assert picture.icc[16:20] == b"RGB "
    assert picture.metadata.dpi == (300, 300)
    assert "its CMYK is converted to sRGB by its profile" in caplog.text
