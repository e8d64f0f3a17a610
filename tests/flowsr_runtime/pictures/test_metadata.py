"""Metadata is kept if the format holds it, and adapted to the upright picture."""

import io
import itertools
import logging
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin

from flowsr_runtime.pictures.files import Metadata, Picture, encode_picture, read_picture
from tests.flowsr_runtime.pictures.picture_files import RGB_ICC, deep_png_file, png_of_chunks

Photo = NDArray[np.uint8]
Base, IFD = ExifTags.Base, ExifTags.IFD
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="%d"/></x:xmpmeta>'
# Where each format holds what: the table of docs/guides/pictures.md.
EXIF = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
DEPTHS = {"PNG": (8, 16), "TIFF": (8, 16, "float")}
TARGETS = [(format, depth) for format in (*EXIF, "BMP") for depth in DEPTHS.get(format, (8,))]
# PNG and BMP count in whole pixels per metre.
DPI_ROUNDING = 0.02


def exif_block(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    exif[Base.Artist], exif[Base.ImageDescription] = "Ada", "a boat"
    exif[Base.ImageWidth], exif[Base.StripOffsets] = 999, 8  # how pixels are stored
    exif.get_ifd(IFD.Exif).update(
        {Base.DateTimeOriginal: "2024:01:02 03:04:05", Base.ExposureTime: 0.005}
    )
    exif.get_ifd(IFD.Exif)[IFD.Interop] = {1: "R98"}
    exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: (48.0, 30.0, 15.5)})
    return exif


def facts(exif: bytes | None) -> dict[Any, Any]:
    """Return everything that an EXIF block says."""
    block = Image.Exif()
    block.load(exif or b"")
    groups = {group: dict(block.get_ifd(group)) for group in (IFD.Exif, IFD.GPSInfo)}
    groups[IFD.Exif].pop(IFD.Interop, None)
    if groups[IFD.Exif]:
        groups[IFD.Interop] = dict(block.get_ifd(IFD.Interop))
    return {**{tag: block[tag] for tag in block if tag not in groups}, **groups}


@pytest.fixture
def like(photo: Photo) -> Picture:
    """A picture with everything that can be said of it."""
    data = saved(photo, "JPEG", exif=exif_block(), xmp=XMP % 1, dpi=(300, 200), comment="sea")
    return read_picture(data)


def saved(photo: Photo, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("format", "depth"), TARGETS)
def test_what_a_format_holds_is_kept(
    like: Picture, photo: Photo, format: str, depth: Any
) -> None:
    found = read_picture(encode_picture(photo, format, like=like, depth=depth)).metadata
    held = format in EXIF
    assert facts(found.exif) == (facts(like.metadata.exif) if held else facts(None))
    assert found.xmp == (like.metadata.xmp if held else None)
    assert found.dpi is not None
    np.testing.assert_allclose(found.dpi, (300, 200), atol=DPI_ROUNDING)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_comment_is_kept(like: Picture, photo: Photo, format: str) -> None:
    found = read_picture(encode_picture(photo, format, like=like)).metadata
    assert found.text == (("Comment", "sea"),)


def test_only_what_describes_the_picture_is_kept(like: Picture) -> None:
    kept = facts(like.metadata.exif)
    assert kept[Base.Artist] == "Ada"
    assert kept[IFD.Exif][Base.ExposureTime] == pytest.approx(0.005)
    assert kept[IFD.Interop] == {1: "R98"}
    assert {Base.Orientation, Base.ImageWidth, Base.StripOffsets}.isdisjoint(kept)


@pytest.mark.parametrize(("format", "orientation"), [*itertools.product(EXIF, range(1, 9))])
def test_an_upright_picture_says_that_it_is_upright(
    photo: Photo, format: str, orientation: int
) -> None:
    exif = exif_block(orientation)
    del exif[Base.ImageWidth], exif[Base.StripOffsets]  # a TIFF would believe them
    options = {"dpi": (300, 200)} if format in ("PNG", "JPEG", "TIFF") else {}
    xmp = {} if format in ("PNG", "TIFF") else {"xmp": XMP % orientation}
    picture = read_picture(saved(photo, format, exif=exif, **options, **xmp))
    swapped = orientation > 4
    assert picture.rgb.shape == ((31, 23, 3) if swapped else (23, 31, 3))
    assert Base.Orientation not in facts(picture.metadata.exif)
    assert picture.metadata.xmp in (None, XMP % 1)
    due = ((200, 300) if swapped else (300, 200)) if options else (0, 0)
    np.testing.assert_allclose(picture.metadata.dpi or (0, 0), due, atol=DPI_ROUNDING)


def test_the_size_in_the_exif_becomes_that_of_the_result(photo: Photo) -> None:
    exif = exif_block()
    exif.get_ifd(IFD.Exif).update({Base.ExifImageWidth: 31, Base.ExifImageHeight: 23})
    like = read_picture(saved(photo, "PNG", exif=exif))
    large = np.zeros((46, 62, 3), np.uint8)
    found = facts(read_picture(encode_picture(large, "jpg", like=like)).metadata.exif)
    assert found[IFD.Exif][Base.ExifImageWidth] == 62
    assert found[IFD.Exif][Base.ExifImageHeight] == 46


def test_a_picture_that_says_nothing_comes_out_saying_nothing(photo: Photo) -> None:
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        like = read_picture(saved(photo, format))
        assert like.metadata == Metadata()
        assert read_picture(encode_picture(photo, format, like=like)).metadata == Metadata()


@pytest.mark.parametrize("depth", [8, 16])
def test_texts_of_a_png_are_kept(photo: Photo, depth: Any) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a boat")
    info.add_itxt("Author", "Ada Łukasiewicz", lang="pl")
    info.add_text("Long", "x" * 2000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", XMP % 1)
    like = read_picture(saved(photo, "PNG", pnginfo=info))
    found = read_picture(encode_picture(photo, "PNG", like=like, depth=depth)).metadata
    assert found.text == (
        ("Title", "a boat"),
        ("Author", "Ada Łukasiewicz"),
        ("Long", "x" * 2000),
    )
    assert found.xmp == XMP % 1


@pytest.mark.parametrize("depth", [8, 16])
def test_color_chunks_of_a_png_are_kept(depth: Any) -> None:
    chunks = (b"cHRM", bytes(range(32))), (b"gAMA", (100_000).to_bytes(4, "big"))
    like = read_picture(deep_png_file(np.zeros((2, 2, 3), np.uint16), *chunks))
    found = read_picture(encode_picture(like.pixels, "PNG", like=like, depth=depth))
    assert found.metadata.chunks == chunks


def test_a_profile_goes_before_color_chunks() -> None:
    metadata = Metadata(chunks=((b"sRGB", b"\0"),))
    pixels = np.zeros((2, 2, 3), np.uint8)
    like = Picture(pixels, icc=RGB_ICC, metadata=metadata)
    found = read_picture(encode_picture(pixels, "PNG", like=like))
    assert (found.icc, found.metadata.chunks) == (RGB_ICC, ())


def test_damaged_exif_is_left_out_with_a_line(
    photo: Photo, caplog: pytest.LogCaptureFixture
) -> None:
    exif = exif_block().tobytes()
    at = exif.index(b"\x87\x69") + 8  # where the directory of the exposure begins
    broken = exif[:at] + b"\xff\xff\xff\xf0" + exif[at + 4 :]
    with caplog.at_level(logging.WARNING):
        picture = read_picture(saved(photo, "PNG", exif=broken))
    np.testing.assert_array_equal(picture.rgb, photo)
    assert picture.metadata.exif is None or facts(picture.metadata.exif)[IFD.Exif] == {}


@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_what_is_no_exif_at_all_is_left_out_with_a_line(
    photo: Photo, caplog: pytest.LogCaptureFixture, format: str
) -> None:
    picture = read_picture(saved(photo, format, exif=b"Exif\0\0this is none of it"))
    assert picture.rgb.shape == photo.shape
    assert picture.metadata.exif is None
    # Pillow says nothing of a JPEG's.
    logged = "the picture: its EXIF is damaged and is not kept" in caplog.text
    assert logged == (format != "JPEG")


def test_a_resolution_of_no_unit_is_none() -> None:
    header = bytes([0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0])
    pixels = (b"IDAT", zlib.compress(b"\0\0"))
    shape = (b"pHYs", (11811).to_bytes(4, "big") * 2 + b"\0")
    data = png_of_chunks((b"IHDR", header), shape, pixels, (b"IEND", b""))
    assert read_picture(data).metadata.dpi is None


@pytest.mark.parametrize("format", ["WEBP", "AVIF", "PNG"])
def test_a_resolution_that_stands_only_in_exif_is_kept(photo: Photo, format: str) -> None:
    exif = Image.Exif()
    exif[Base.XResolution], exif[Base.YResolution], exif[Base.ResolutionUnit] = 50.0, 100.0, 3
    picture = read_picture(saved(photo, format, exif=exif))
    assert picture.metadata.dpi == (127, 254)
    for target in (*EXIF, "BMP"):
        found = read_picture(encode_picture(picture, target)).metadata.dpi
        assert found == pytest.approx((127, 254), abs=DPI_ROUNDING)


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        (Metadata(xmp=b"<x:xmpmeta>" + b"h" * 70_000), "XMP"),
        (Metadata(text=(("Comment", "h" * 70_000),)), "comment"),
    ],
)
def test_metadata_that_jpeg_cannot_hold_are_left_out_with_a_line(
    photo: Photo, metadata: Metadata, title: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = encode_picture(Picture(photo, metadata=metadata), "jpeg")
    found = read_picture(data).metadata
    assert (found.xmp, found.text) == (None, ())
    assert caplog.messages == [f"JPEG holds no {title} of this size; it is not kept"]
    assert read_picture(encode_picture(Picture(photo, metadata=metadata), "png")).metadata == (
        metadata
    )


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "compressed iTXt", "tEXt"])
def test_a_text_beyond_the_limit_is_left_out_and_the_pixels_are_read(
    photo: Photo, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    info, large = PngImagePlugin.PngInfo(), "x" * 1_100_000
    if "iTXt" in kind:
        info.add_itxt("workflow", large, zip="compressed" in kind)
    else:
        info.add_text("workflow", large, zip=kind == "zTXt")
    info.add_text("Comment", "sea")
    picture = read_picture(saved(photo, "PNG", pnginfo=info))
    np.testing.assert_array_equal(picture.pixels, photo)
    assert picture.metadata.text == (("Comment", "sea"),)
    assert caplog.messages == ["the picture: a text of more than 1 MiB is not kept"]


@pytest.mark.parametrize("target", ["PNG", "WEBP", "TIFF", "AVIF", "JPEG"])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_large_profile_is_written_only_where_it_can_be_read(
    photo: Photo, target: str, depth: Any
) -> None:
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made += bytes(1_100_000)
    made[:4] = len(made).to_bytes(4, "big")
    picture = read_picture(saved(photo, "JPEG", icc_profile=bytes(made)))
    assert picture.icc == bytes(made)
    if depth == 16 and target not in ("PNG", "TIFF"):
        depth = 8
    found = read_picture(encode_picture(picture.promote_depth(depth), target))
    assert found.icc == bytes(made)


def iptc_of(*records: tuple[int, bytes]) -> bytes:
    """Return IPTC-IIM records of the application."""
    return b"".join(
        b"\x1c\x02" + bytes([number]) + len(text).to_bytes(2, "big") + text
        for number, text in records
    )


@pytest.mark.parametrize("title", [b"My title", b"My titles"])  # of even and of odd length
@pytest.mark.parametrize("target", ["JPEG", "TIFF"])
def test_title_and_keywords_are_kept(photo: Photo, title: bytes, target: str) -> None:
    iptc = iptc_of((5, title), (25, b"keyword"))
    picture = Picture(photo, metadata=Metadata(iptc=iptc))
    jpeg = read_picture(encode_picture(picture, "JPEG"))
    assert jpeg.metadata.iptc == iptc
    assert read_picture(encode_picture(jpeg, target)).metadata.iptc == iptc


def test_title_and_keywords_that_a_format_lacks_are_named(
    photo: Photo, caplog: pytest.LogCaptureFixture
) -> None:
    picture = Picture(photo, metadata=Metadata(iptc=iptc_of((5, b"My title"))))
    assert read_picture(encode_picture(picture, "PNG")).metadata.iptc is None
    assert caplog.messages == ["PNG holds no IPTC; title, keywords and caption are not kept"]


MOTION = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description
 xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1"
 GCamera:MicroVideoOffset='24' hdrgm:Version="1.0" xmp:Rating="5">
 <Container:Directory><rdf:Seq><rdf:li Item:Semantic="GainMap"/></rdf:Seq></Container:Directory>
 </rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_a_video_or_gain_map_that_is_lost_is_not_claimed(
    photo: Photo, caplog: pytest.LogCaptureFixture
) -> None:
    picture = read_picture(saved(photo, "JPEG", xmp=MOTION))
    assert picture.metadata.xmp is not None
    for word in (b"MotionPhoto", b"MicroVideo", b"hdrgm:", b"Container:", b"GainMap"):
        assert word not in picture.metadata.xmp
    assert b'xmp:Rating="5"' in picture.metadata.xmp
    assert b"xmlns:GCamera=" in picture.metadata.xmp
    assert caplog.messages == ["the picture: its video or gain map is not kept"]


def test_claims_in_a_large_packet_are_left_out_with_it(photo: Photo) -> None:
    opened = b"<Container:Directory>" * 200_000
    data = saved(photo, "WEBP", xmp=b"<x:xmpmeta>" + opened, lossless=True)
    assert read_picture(data).metadata.xmp is None
