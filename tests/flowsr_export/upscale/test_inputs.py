"""A bundle is told from images, and outputs are named after their inputs."""

from pathlib import Path

import pytest

from flowsr_export.upscale.inputs import is_earlier_output, output_beside, split_bundle
from flowsr_runtime.errors import BundleError, UsageError


@pytest.mark.parametrize(
    ("scale", "size", "name"),
    [
        ("4", None, "photo_x4.png"),
        ("4.0", None, "photo_x4.png"),
        ("2.7", None, "photo_x2.7.png"),
        (("3.6", "2.7"), None, "photo_x2.7x3.6.png"),
        (None, (1080, 1920), "photo_1920x1080.png"),
    ],
)
def test_an_output_is_named_after_its_input_and_its_scale_or_size(
    scale: str | tuple[str, str] | None, size: tuple[int, int] | None, name: str
) -> None:
    target = output_beside(Path("in/photo.jpg"), scale, size, ".png")
    assert target == Path("in") / name
    assert is_earlier_output(target, {"photo"})


@pytest.mark.parametrize(
    "name", ["photo.png", "other_x4.png", "photo_x.png", "photo_4.png", "photo_x4_crop.png"]
)
def test_another_file_is_no_earlier_output(name: str) -> None:
    assert not is_earlier_output(Path(name), {"photo"})


def test_a_bundle_is_separated_from_the_images(bundle: Path) -> None:
    images = Path("a.png"), Path("b")
    assert split_bundle((bundle, *images)) == (bundle, images)
    assert split_bundle(images) == (None, images)
    assert split_bundle((Path("none.bundle"), *images)) == (Path("none.bundle"), images)


def test_a_picture_without_a_suffix_is_a_picture(photo: Path) -> None:
    bare = photo.rename(photo.with_suffix(""))
    assert split_bundle((bare, Path("b.png"))) == (None, (bare, Path("b.png")))


def test_a_bundle_after_the_images_is_refused(bundle: Path) -> None:
    for late in (bundle, Path("none.bundle")):
        with pytest.raises(UsageError, match=f"before the images, got {late} after a.png"):
            split_bundle((Path("a.png"), late))


def test_what_is_neither_a_bundle_nor_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and more bytes than a header has")
    for name in ("empty", "a.zip", "nowhere"):
        with pytest.raises(BundleError, match=f"{name} is neither a bundle nor an image"):
            split_bundle((tmp_path / name, Path("a.png")))
