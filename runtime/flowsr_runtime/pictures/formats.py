"""Picture formats: their capabilities, and how to open a file."""

import io
import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Final, Literal, cast

from PIL import ImageFile, features

from flowsr_runtime.errors import OutputError, PictureError
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import Depth, check_depth, depth_text

__all__ = [
    "FORMATS",
    "READABLE",
    "READ_SUFFIXES",
    "SUFFIXES",
    "Format",
    "Mode",
    "check_format",
    "format_named",
    "kind_of",
    "named_kind",
    "open_image",
]

Mode = Literal["L", "LA", "RGB", "RGBA"]
"""Gray or RGB, with alpha or without."""

PNG_LEVEL: Final = 4
"""Compression level of zlib: a large photograph takes 0.4 of the time of zlib's default, 6, and
1 % more bytes (15 against 6 megapixels a second on one EPYC core)."""

READABLE: Final = "PNG, JPEG, WebP, BMP, TIFF, AVIF or GIF"

_REMEDY: Final = "pip install 'pillow>=11.3'"


@dataclass(frozen=True)
class Format:
    """The capabilities of a format, and the options to write it.

    Attributes:
        name: Pillow's name.
        plugin: Beginning of the names of Pillow's module and class that read it.
        suffixes: File suffixes in lower case.
        gray: Whether it holds gray; a gray picture becomes RGB otherwise.
        alpha: Whether it holds alpha.
        depths: Depths that it holds.
        icc: Whether it holds an ICC profile.
        metadata: Other metadata it holds: "exif", "xmp", "dpi", "text", "comment", "chunks".
        max_side: Longest side in pixels, None for no practical limit.
        frames: Whether it holds animations.
        options: Options of Pillow's `save`; TIFF has its own writer. They are lossless, except
            for JPEG (4:4:4, quality 95) and AVIF (4:4:4, quality 90).
        lossy: Options that replace those if a quality is given; None if it has no quality.
    """

    name: str
    plugin: str
    suffixes: tuple[str, ...]
    gray: bool = True
    alpha: bool = True
    depths: tuple[Depth, ...] = (8,)
    icc: bool = True
    metadata: frozenset[str] = frozenset()
    max_side: int | None = None
    frames: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    lossy: dict[str, Any] | None = None

    def options_at(self, quality: int | None) -> dict[str, Any]:
        """Return the options to write with a quality, 1 to 100, or None for the format's own.

        Raises:
            OutputError: If the format has no quality, or none of that number.
        """
        if quality is None:
            return self.options
        if self.lossy is None:
            lossy = ", ".join(item.name for item in FORMATS.values() if item.lossy is not None)
            raise OutputError(
                f"quality is for {lossy}, got {quality} for {self.name}", option="quality"
            )
        if not 1 <= quality <= 100:
            message = f"quality must be from 1 to 100, got {quality}"
            raise OutputError(message, option="quality")
        return {**self.lossy, "quality": quality}


FORMATS: Final[dict[str, Format]] = {
    item.name: item
    for item in (
        Format(
            "PNG",
            "Png",
            (".png",),
            depths=(8, 16),
            metadata=frozenset({"exif", "xmp", "dpi", "text", "chunks"}),
            frames=True,
            options={"compress_level": PNG_LEVEL},
        ),
        Format(
            "JPEG",
            "Jpeg",
            (".jpg", ".jpeg", ".jpe", ".jfif"),
            alpha=False,
            metadata=frozenset({"exif", "xmp", "dpi", "comment"}),
            max_side=65500,  # what libjpeg writes
            options={"quality": 95, "subsampling": 0},
            lossy={"subsampling": 0},
        ),
        Format(
            "WEBP",
            "WebP",
            (".webp",),
            gray=False,
            metadata=frozenset({"exif", "xmp"}),
            max_side=16383,  # what libwebp writes
            frames=True,
            options={"lossless": True, "exact": True},
            lossy={},
        ),
        Format(
            "TIFF",
            "Tiff",
            (".tif", ".tiff"),
            depths=(8, 16, "float"),
            metadata=frozenset({"exif", "xmp", "dpi"}),
        ),
        Format(
            "AVIF",
            "Avif",
            (".avif",),
            gray=False,
            metadata=frozenset({"exif", "xmp"}),
            max_side=32768,  # what libavif reads
            options={"quality": 90, "subsampling": "4:4:4"},
            lossy={"subsampling": "4:4:4"},
        ),
        Format(
            "BMP",
            "Bmp",
            (".bmp",),
            alpha=False,
            icc=False,
            metadata=frozenset({"dpi"}),
        ),
    )
}

SUFFIXES: Final = {
    suffix: item.name for item in FORMATS.values() for suffix in sorted(item.suffixes)
}
"""Names of formats by lower-case suffix."""

_READ_ONLY: Final = {"GIF": "Gif"}  # formats that are read and not written

READ_SUFFIXES: Final = frozenset({*SUFFIXES, ".gif"})
"""Lower-case suffixes of the files that are read."""

_STARTS: Final = {
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "JPEG": rb"\xff\xd8\xff",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "BMP": rb"BM",
    "GIF": rb"GIF8",
    "JPEG XL": rb"\xff\x0a|....JXL ",
    "JPEG 2000": rb"....jP  |\xff\x4f\xff\x51",
    "PSD": rb"8BPS",
}
"""Beginnings of files by format, those that are named but not read among them."""

_BRANDS: Final = {
    "AVIF": {b"avif", b"avis"},
    "HEIC": {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"},
}
"""Brands in the first box of a file (ISO/IEC 14496-12, section 4.3), the more telling first."""


def format_named(name: str) -> Format:
    """Return a format by its name or suffix, in any case: "png", "JPEG", ".jpg".

    Raises:
        OutputError: If there is none, or this Pillow was built without it.
    """
    key = name.lower().lstrip(".")
    named = FORMATS.get(SUFFIXES.get(f".{key}", key.upper()))
    if named is None:
        raise OutputError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    if not _is_supported(named.name):
        raise OutputError(f"{named.name} is not in the installed Pillow; {_REMEDY}")
    return named


def check_format(
    format_name: str,
    mode: Mode | int = "RGB",
    depth: Depth = 8,
    *,
    size: tuple[int, int] | None = None,
    icc: bytes | None = None,
    name: str = "the picture",
) -> None:
    """Check that a format can hold a picture, without encoding one.

    Args:
        format_name: Name or suffix of the format, in any case.
        mode: Mode of the picture, or its number of channels.
        depth: Depth to write with.
        size: Size (H, W), None to skip the check of the format's longest side.
        icc: ICC profile to write.
        name: Name of the picture in messages.

    Raises:
        OutputError: If there is no such format, or it cannot hold the picture.
        UsageError: If there is no such depth.
    """
    check_depth(depth)
    target = format_named(format_name)
    refused = f"{name} cannot be written: {target.name}"
    if size is not None and target.max_side is not None and max(size) > target.max_side:
        raise OutputError(
            f"{refused} sides are at most {target.max_side} pixels, got {size_text(size)}; "
            "write PNG",
            option="format",
        )
    if depth not in target.depths:
        remedy = "TIFF" if depth == "float" else "PNG or TIFF"
        raise OutputError(
            f"{refused} holds no {depth_text(depth)}; write {remedy}, or give depth "
            f"{target.depths[-1]}",
            option="depth",
        )
    if mode in ("LA", "RGBA", 2, 4) and not target.alpha:
        raise OutputError(f"{refused} holds no alpha; write PNG", option="format")
    if icc is not None and not target.icc:
        raise OutputError(f"{refused} holds no ICC profile; write PNG", option="format")
    if icc is not None and not target.gray and icc[16:20] == b"GRAY":
        raise OutputError(
            f"{refused} holds no gray, which the ICC profile describes; write PNG",
            option="format",
        )


def kind_of(data: bytes) -> str | None:
    """Return the format of a file by its first bytes, None for an unsupported one."""
    kind = named_kind(data)
    return kind if kind in FORMATS or kind in _READ_ONLY else None


def named_kind(data: bytes) -> str | None:
    """Return the format of a file, also one that is not read, None for an unknown one."""
    if data[4:8] == b"ftyp":
        size = int.from_bytes(data[:4], "big")
        brands = {data[at : at + 4] for at in range(8, min(size, len(data)), 4) if at != 12}
        return next((kind for kind, own in _BRANDS.items() if brands & own), None)
    kinds = (name for name, start in _STARTS.items() if re.match(start, data, re.DOTALL))
    return next(kinds, None)


def open_image(data: bytes, name: str) -> ImageFile.ImageFile:
    """Open a picture file by its first bytes, without decoding its pixels.

    This calls Pillow's classes directly: `Image.open` warns of large pictures through filters
    that all threads share, and has a limit of its own.

    Args:
        data: The file's content.
        name: Name of the file in messages.

    Returns:
        The image, not loaded.

    Raises:
        PictureError: If the format is not supported.
    """
    kind = kind_of(data)
    if kind is None:
        found = named_kind(data)
        given = "" if found is None else f"{found}, "
        raise PictureError(f"{name} is {given}not a {READABLE} picture")
    if not _is_supported(kind):
        raise PictureError(f"{name} is {kind}, which the installed Pillow lacks; {_REMEDY}")
    plugin = FORMATS[kind].plugin if kind in FORMATS else _READ_ONLY[kind]
    opener = getattr(import_module(f"PIL.{plugin}ImagePlugin"), f"{plugin}ImageFile")
    return cast(ImageFile.ImageFile, opener(io.BytesIO(data)))


def _is_supported(kind: str) -> bool:
    feature = {"AVIF": "avif", "WEBP": "webp", "JPEG": "jpg"}.get(kind)
    return feature is None or bool(features.check(feature))
