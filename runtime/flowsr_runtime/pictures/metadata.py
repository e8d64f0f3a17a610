"""Read the metadata of one picture file, and write it into another."""

import logging
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from PIL import ExifTags, Image, ImageFile, PngImagePlugin

from flowsr_runtime.pictures.codecs.png import MOST_PROFILE, MOST_TEXT
from flowsr_runtime.pictures.formats import Format

__all__ = [
    "Metadata",
    "Source",
    "fitting",
    "orientation_of",
    "read_metadata",
    "save_options",
    "sound_exif",
]

logger = logging.getLogger(__name__)

_BASE: Final = ExifTags.Base

# Only descriptive tags of the main directory are kept: the others concern the storage of the
# pixels, a thumbnail of the small picture, or the geographic position of its pixels.
_KEPT_TAGS: Final = frozenset(
    {
        *(_BASE.DocumentName, _BASE.ImageDescription, _BASE.Make, _BASE.Model),
        *(_BASE.Software, _BASE.DateTime, _BASE.Artist, _BASE.HostComputer, _BASE.Copyright),
        *(_BASE.Rating, _BASE.RatingPercent),
        *(_BASE.XPTitle, _BASE.XPComment, _BASE.XPAuthor, _BASE.XPKeywords, _BASE.XPSubject),
    }
)
_DIRECTORIES: Final = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_INTEROP: Final = ExifTags.IFD.Interop
_CENTIMETER, _INCH = 3, 2  # units of a resolution
_MOST_OF_JPEG: Final = {"xmp": 65504, "exif": 65533, "text": 65533, "iptc": 65537}
"""Bytes of a segment of JPEG, with the marker and length of that for IPTC."""

_TITLES: Final = {"xmp": "XMP", "exif": "EXIF", "text": "comment", "iptc": "IPTC"}
_MOST_DPI: Final = 1e6  # a larger one is a mistake, which some formats cannot hold

_COLOR_CHUNKS: Final = (b"cHRM", b"cICP", b"gAMA", b"sRGB")
"""Chunks of PNG that define its colors if it has no ICC profile."""

_OUR_OWN: Final = ("XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type APP1")
"""Texts of PNG that hold XMP and EXIF, which `Metadata` stores apart."""

_IPTC_TAG, _IPTC_RESOURCE = 33723, 0x0404  # of TIFF, and of Photoshop's blocks in JPEG

_SEARCHED: Final = 1 << 16  # bytes of XMP; the search takes quadratic time

_CLAIMED: Final = (b"Camera:", b"hdrgm:", b"Container:Directory")
# Motion photos and Ultra HDR: what follows the picture, or lies beside it, is not upscaled.
_XMP_CLAIMS: Final = (
    re.compile(rb"<(Container|GContainer):Directory\b.*?</\1:Directory>", re.DOTALL),
    re.compile(
        rb"\s(?:GCamera|Camera|hdrgm):[\w-]*(?:Motion|MicroVideo|Version|Gain|Gamma|Offset|HDR)"
        rb"[\w-]*\s*=\s*(?:\"[^\"]*\"|'[^']*')"
    ),
    re.compile(rb"<(GCamera|Camera|hdrgm):([\w-]+)\b[^>]*>.*?</\1:\2>", re.DOTALL),
)

_XMP_ORIENTATION: Final = re.compile(rb"(tiff:Orientation(?:=[\"']|>))\d")


@dataclass(frozen=True, repr=False)
class Metadata:
    """Metadata of a picture file, without its ICC profile.

    Attributes:
        exif: EXIF block as Pillow writes it, without orientation, thumbnail and storage tags,
            or None.
        xmp: XMP packet with upright orientation, or None.
        dpi: Horizontal and vertical pixels per inch, or None.
        text: Keys and texts of PNG in order; a comment of JPEG is "Comment".
        chunks: Color chunks of PNG by name: gAMA, cHRM, sRGB, cICP.
        iptc: Title, keywords and caption as IPTC-IIM records, or None.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    iptc: bytes | None = None

    def __repr__(self) -> str:
        names = [name for name, value in vars(self).items() if value]
        return f"<Metadata {', '.join(names) or 'none'}>"


@dataclass(frozen=True)
class Source:
    """The metadata of a decoded file, as its decoder returned them.

    Attributes:
        format: Name of the format.
        exif: EXIF, or the directory of a TIFF.
        info: Pillow's `info`.
        turned: Orientation of the pixels in the file, 1 to 8 as in EXIF.
        text: Texts of a PNG by key.
        chunks: Chunks of a PNG by name.
    """

    format: str
    exif: Image.Exif
    info: Mapping[Any, Any]
    turned: int
    text: Mapping[str, str] = field(default_factory=dict)
    chunks: Mapping[bytes, bytes] = field(default_factory=dict)


def sound_exif(image: ImageFile.ImageFile, name: str) -> Image.Exif:
    """Return an image's EXIF, or log a warning and return an empty one if it is damaged."""
    try:
        exif = image.getexif()
        orientation_of(exif)
        return exif
    except Exception as error:  # Pillow raises all kinds of errors on a damaged block
        logger.warning("%s: its EXIF is damaged and is not kept: %s", name, error)
        return Image.Exif()


def orientation_of(exif: Image.Exif) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if unknown."""
    value = exif.get(_BASE.Orientation, 1)
    return value if value in range(1, 9) else 1


def read_metadata(source: Source, name: str) -> Metadata:
    """Return the metadata of a file, adapted to the upright picture.

    Args:
        source: Metadata as decoded.
        name: Name of the file in the log.

    Returns:
        The metadata; damaged parts are left out, with a warning in the log.
    """
    dpi = _dpi(source)
    if dpi is not None and source.turned > 4:  # width and height swap
        dpi = dpi[::-1]
    return Metadata(
        exif=_exif(source.exif, name),
        xmp=_xmp(source.info.get("xmp"), name),
        iptc=_iptc(source),
        dpi=dpi,
        text=_text(source),
        chunks=tuple(
            (key, source.chunks[key]) for key in _COLOR_CHUNKS if key in source.chunks
        ),
    )


def fitting(metadata: Metadata, target: Format, size: tuple[int, int]) -> Metadata:
    """Return the metadata that a format holds; a warning in the log names what people miss.

    Args:
        metadata: Metadata to write.
        target: The format.
        size: Size (H, W) of the picture, for the EXIF tags that state it.
    """
    lost: dict[str, Any] = {}
    if target.name == "JPEG":
        comments = [text for key, text in metadata.text if key == "Comment"]
        parts = {
            "exif": _exif_of(metadata, target, size),
            "xmp": metadata.xmp,
            "text": comments[0].encode() if comments else None,
            "iptc": None if metadata.iptc is None else _photoshop(metadata.iptc),
        }
        too_large = [
            key for key, part in parts.items() if len(part or b"") > _MOST_OF_JPEG[key]
        ]
        for key in too_large:
            logger.warning("JPEG holds no %s of this size; it is not kept", _TITLES[key])
        lost = {key: () if key == "text" else None for key in too_large}
    elif metadata.iptc is not None and target.name != "TIFF":
        logger.warning(
            "%s holds no IPTC; title, keywords and caption are not kept", target.name
        )
        lost = {"iptc": None}
    if target.name == "PNG" and any(
        len(text.encode()) > MOST_TEXT for _, text in metadata.text
    ):
        logger.warning("a text of more than 1 MiB is not kept")
        short = [entry for entry in metadata.text if len(entry[1].encode()) <= MOST_TEXT]
        lost |= {"text": tuple(short)}
    return replace(metadata, **lost)


def save_options(
    metadata: Metadata, target: Format, icc: bytes | None, size: tuple[int, int]
) -> dict[str, Any]:
    """Return the options of Pillow's `save` that write metadata into a format.

    Args:
        metadata: Metadata to write; parts that the format does not hold are left out.
        target: The format.
        icc: ICC profile, or None.
        size: Size (H, W) of the picture, for the EXIF tags that state it.

    Returns:
        Options by name.
    """
    holds = target.metadata
    metadata = fitting(metadata, target, size)
    options: dict[str, Any] = {}
    if icc is not None and len(icc) <= MOST_PROFILE:
        options["icc_profile"] = icc
    elif icc is not None:
        logger.warning("an ICC profile of more than 16 MiB is not kept")
    exif = _exif_of(metadata, target, size)
    if exif is not None:
        options["exif"] = exif
    if "xmp" in holds and metadata.xmp is not None and target.name != "PNG":
        options["xmp"] = metadata.xmp
    if "dpi" in holds and metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if "comment" in holds:
        comments = [text for key, text in metadata.text if key == "Comment"]
        options |= {"comment": comments[0]} if comments else {}
    if metadata.iptc is not None and target.name == "JPEG":
        options["extra"] = _photoshop(metadata.iptc)
    elif metadata.iptc is not None:
        options["iptc"] = metadata.iptc
    if target.name == "PNG":
        options["pnginfo"] = _png_info(metadata, icc)
    return options


def _exif(exif: Image.Exif, name: str) -> bytes | None:
    """Return an EXIF block of the descriptive tags, None without any."""
    kept = Image.Exif()
    try:
        for tag in _KEPT_TAGS & set(exif):
            kept[tag] = exif[tag]
        groups = {group: dict(exif.get_ifd(group)) for group in _DIRECTORIES}
        if _INTEROP in groups[ExifTags.IFD.Exif]:  # an offset, which would lead elsewhere
            groups[ExifTags.IFD.Exif][_INTEROP] = dict(exif.get_ifd(_INTEROP))
        for group, directory in groups.items():
            if directory:
                kept.get_ifd(group).update(directory)
        return kept.tobytes() if len(kept) or any(groups.values()) else None
    except Exception as error:  # Pillow raises all kinds of errors on a damaged block
        logger.warning("%s: its EXIF is damaged and is not kept: %s", name, error)
        return None


def _exif_of(metadata: Metadata, target: Format, size: tuple[int, int]) -> bytes | None:
    """Return the EXIF block to write, with the resolution if it has no other place."""
    dpi = None if "dpi" in target.metadata else metadata.dpi
    if "exif" not in target.metadata or (metadata.exif is None and dpi is None):
        return None
    return _exif_for(metadata.exif, size, dpi)


def _exif_for(
    exif: bytes | None, size: tuple[int, int], dpi: tuple[float, float] | None
) -> bytes:
    """Return an EXIF block whose size tags, if it has any, state another size.

    A resolution is added if the format has no other place for it.
    """
    block = Image.Exif()
    if exif is not None:
        block.load(exif)
    if dpi is not None:
        block[_BASE.XResolution], block[_BASE.YResolution] = dpi
        block[_BASE.ResolutionUnit] = _INCH
    directory = block.get_ifd(ExifTags.IFD.Exif)
    sizes = {_BASE.ExifImageHeight: size[0], _BASE.ExifImageWidth: size[1]}
    directory.update({tag: side for tag, side in sizes.items() if tag in directory})
    return block.tobytes()


def _iptc(source: Source) -> bytes | None:
    """Return the IPTC records of a JPEG or TIFF."""
    photoshop = source.info.get("photoshop")
    if source.format == "JPEG" and isinstance(photoshop, dict):
        value = photoshop.get(_IPTC_RESOURCE)
    else:
        value = source.exif.get(_IPTC_TAG) if source.format == "TIFF" else None
    return value if isinstance(value, bytes) and value else None


def _photoshop(iptc: bytes) -> bytes:
    """Return a segment APP13 of JPEG with IPTC records."""
    padded = iptc + bytes(len(iptc) % 2)
    block = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + padded
    content = b"Photoshop 3.0\0" + block
    return b"\xff\xed" + struct.pack(">H", min(len(content) + 2, 0xFFFF)) + content


def _xmp(value: object, name: str) -> bytes | None:
    """Return an XMP packet with upright orientation, without claims of what is not kept."""
    packet = value.encode() if isinstance(value, str) else value
    if not isinstance(packet, bytes) or not packet:
        return None
    honest = packet
    if any(word in packet for word in _CLAIMED):
        if len(packet) > _SEARCHED:
            logger.warning("%s: its XMP, of a video or gain map, is not kept", name)
            return None
        for claim in _XMP_CLAIMS:
            honest = claim.sub(b"", honest)
    if honest != packet:
        logger.warning("%s: its video or gain map is not kept", name)
    return _XMP_ORIENTATION.sub(rb"\g<1>1", honest)


def _dpi(source: Source) -> tuple[float, float] | None:
    """Return the resolution, None if there is none or none that makes sense."""
    try:
        across, down = map(float, _stated_dpi(source) or ())
    except (ArithmeticError, TypeError, ValueError):
        return None
    return (across, down) if 0 < across <= _MOST_DPI and 0 < down <= _MOST_DPI else None


def _stated_dpi(source: Source) -> Sequence[Any] | None:
    value = source.info.get("dpi")
    if source.format == "JPEG" and source.info.get("jfif_unit", 0) == 0:  # and 72 there
        return value if _BASE.XResolution in source.exif else None
    if source.format != "TIFF" and isinstance(value, tuple):  # for TIFF it may be 1
        return value
    factor = {_INCH: 1.0, _CENTIMETER: 2.54}.get(source.exif.get(_BASE.ResolutionUnit, _INCH))
    sides = [source.exif.get(tag, 0) for tag in (_BASE.XResolution, _BASE.YResolution)]
    return None if factor is None else [factor * float(side) for side in sides]


def _text(source: Source) -> tuple[tuple[str, str], ...]:
    comment = source.info.get("comment")
    if source.format == "JPEG" and isinstance(comment, bytes):
        return (("Comment", comment.decode("utf-8", "replace")),)
    return tuple((key, text) for key, text in source.text.items() if key not in _OUR_OWN)


def _png_info(metadata: Metadata, icc: bytes | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, data in () if icc else metadata.chunks:  # a profile takes precedence
        info.add(name, data)
    if metadata.xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp)
    for key, text in metadata.text:
        info.add_text(key, text)
    return info
