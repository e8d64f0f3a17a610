"""An upscaler returns the kind of image that it was given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import PictureError, ShapeError
from flowsr_runtime.pictures.files import encode_picture, read_picture, write_picture
from flowsr_runtime.pictures.picture import Picture
from flowsr_runtime.upscaling.async_upscaler import AsyncUpscaler
from flowsr_runtime.upscaling.pool import UpscalerPool
from flowsr_runtime.upscaling.upscaler import Upscaler

Photo = NDArray[np.uint8]
ICC = b"a profile, which nobody reads"


@pytest.fixture
def upscaler(bundle: Bundle) -> Upscaler:
    """An upscaler on the CPU."""
    return Upscaler.open(bundle, device="cpu")


@pytest.fixture
def file(photo: Photo, tmp_path: Path) -> Path:
    """A picture file with an ICC profile and a resolution."""
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path, icc_profile=ICC, dpi=(300, 300))
    return path


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_gives_a_picture(upscaler: Upscaler, file: Path, kind: Any) -> None:
    large = upscaler.upscale(kind(file), 2)
    assert isinstance(large, Picture)
    np.testing.assert_array_equal(large.pixels, upscaler.upscale(read_picture(file).pixels, 2))
    assert (large.icc, large.metadata.dpi) == (ICC, read_picture(file).metadata.dpi)


def test_a_picture_gives_a_picture_that_can_be_written(
    upscaler: Upscaler, file: Path, tmp_path: Path
) -> None:
    large = upscaler.upscale(read_picture(file), size=(50, 40))
    assert isinstance(large, Picture)
    write_picture(tmp_path / "large.png", large)
    again = read_picture(tmp_path / "large.png")
    np.testing.assert_array_equal(again.pixels, large.pixels)
    assert (again.icc, again.metadata.dpi) == (ICC, large.metadata.dpi)
    assert encode_picture(large, "png") == encode_picture(large.pixels, "png", like=large)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_image_of_pillow_gives_one_of_its_mode(
    upscaler: Upscaler, photo: Photo, mode: str
) -> None:
    image = Image.fromarray(photo).convert(mode)
    large = upscaler.upscale(image, 2)
    assert isinstance(large, Image.Image)
    assert (large.mode, large.size) == (mode, (image.width * 2, image.height * 2))
    np.testing.assert_array_equal(np.asarray(large), upscaler.upscale(np.asarray(image), 2))


def test_an_image_of_pillow_keeps_its_profile_and_orientation(
    upscaler: Upscaler, photo: Photo, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / "turned.png"
    Image.fromarray(photo).save(path, exif=exif, icc_profile=ICC)
    with Image.open(path) as image:
        large = upscaler.upscale(image, 2)
        assert large.size == (image.width * 2, image.height * 2)
    assert large.info["icc_profile"] == ICC
    assert large.getexif()[0x0112] == 6


def test_a_palette_becomes_rgb_and_a_transparent_color_alpha(
    upscaler: Upscaler, photo: Photo
) -> None:
    palette = Image.fromarray(photo).quantize(8)
    assert upscaler.upscale(palette, 2).mode == "RGB"
    palette.info["transparency"] = 0
    assert upscaler.upscale(palette, 2).mode == "RGBA"


def test_deep_images_of_pillow_keep_their_depth(upscaler: Upscaler) -> None:
    ramp = np.arange(0, 60000, 1000, dtype=np.uint16).reshape(6, 10)
    large = upscaler.upscale(Image.fromarray(ramp), 2)
    assert large.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(large), upscaler.upscale(ramp, 2))
    unit = (ramp / 65535).astype(np.float32)
    floats = upscaler.upscale(Image.fromarray(unit), 2)
    np.testing.assert_array_equal(np.asarray(floats), upscaler.upscale(unit, 2))


def test_an_image_that_is_not_supported_is_refused(
    upscaler: Upscaler, photo: Photo, tmp_path: Path
) -> None:
    with pytest.raises(PictureError, match="image is CMYK; convert it to RGB"):
        upscaler.upscale(Image.fromarray(photo).convert("CMYK"), 2)
    with pytest.raises(PictureError, match=r"none\.png does not exist"):
        upscaler.upscale(tmp_path / "none.png", 2)
    with pytest.raises(ShapeError, match="uint8, uint16 or float32 array, got list"):
        upscaler.upscale([[1, 2]], 2)  # type: ignore[call-overload]


def test_a_cut_file_of_pillow_is_refused(
    upscaler: Upscaler, file: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(file.read_bytes()[:-200])
    with Image.open(cut) as image, pytest.raises(PictureError, match="image is damaged"):
        upscaler.upscale(image, 2)


def test_public_objects_say_what_they_are(upscaler: Upscaler, file: Path) -> None:
    picture = read_picture(file)
    pool = UpscalerPool(upscaler, workers=2, queue=3)
    assert repr(picture) == "<Picture 31x23 RGB, 8 bits, ICC profile>"
    assert repr(picture.promote_depth("float")) == "<Picture 31x23 RGB, float, ICC profile>"
    assert repr(picture.metadata) == "<Metadata dpi>"
    assert repr(upscaler.bundle) == "<Bundle own: bilinear, any scale, fp32>"
    assert repr(upscaler.bundle.manifest) == "<Manifest bilinear, any scale, 1 files>"
    assert repr(upscaler) == "<Upscaler own: onnxruntime cpu, fp32>"
    assert repr(pool) == (
        "<UpscalerPool 0 of 2 workers busy, 0 of 3 waiting, on "
        "<Upscaler own: onnxruntime cpu, fp32>>"
    )
    assert repr(AsyncUpscaler(upscaler)).startswith("<AsyncUpscaler on <UpscalerPool 0 of 1")
