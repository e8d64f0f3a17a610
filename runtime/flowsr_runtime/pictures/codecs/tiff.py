"""Write TIFF of any depth, and read by tifffile the TIFF files that Pillow cannot."""

import io
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from flowsr_runtime.errors import OutputError, PictureError
from flowsr_runtime.installation import pip_command
from flowsr_runtime.pictures.codecs.soundness import check_compression, page_of
from flowsr_runtime.pictures.formats import Mode

__all__ = ["encode_tiff", "read_by_tifffile"]

_REMEDY: Final = "convert it to gray, RGB or RGBA of 8 or 16 bits or 32-bit float"

_BASE: Final = ExifTags.Base
_STRIP_BYTES: Final = 2**20
_MOST_BYTES: Final = 2**32 - 2**26
"""Largest size of the pixels: a TIFF has 2^32 bytes, with its ICC profile and EXIF."""

_DEFLATE, _DIFFERENCE, _STRAIGHT_ALPHA, _INCH = 8, 2, 2, 2
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _PREDICTOR, _XMP, _ICC, _IPTC = 338, 339, 317, 700, 34675, 33723
_DIRECTORIES: Final = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
_MODES: Final[dict[tuple[str, int], Mode]] = {
    ("MINISBLACK", 1): "L",
    ("MINISBLACK", 2): "LA",
    ("RGB", 3): "RGB",
    ("RGB", 4): "RGBA",
}
_DTYPES: Final[dict[str, type[np.generic]]] = {
    "uint16": np.uint16,
    "float16": np.float32,
    "float32": np.float32,
}


def encode_tiff(pixels: NDArray[Any], mode: Mode, options: dict[str, Any]) -> bytes:
    """Encode a picture as TIFF, in deflated strips.

    Pillow writes no 16-bit or float colors, and loses nested EXIF directories.

    Args:
        pixels: Picture, (H, W, channels) uint8, uint16 or float32.
        mode: "L", "LA", "RGB" or "RGBA".
        options: Options of Pillow's `save` for the metadata.

    Returns:
        The file's content.

    Raises:
        OutputError: If it is larger than a TIFF can be.
    """
    directory = ImageFileDirectory_v2(ifh=b"II*\0\0\0\0\0")
    _describe(directory, options)
    is_float = pixels.dtype == np.float32
    rows = max(1, _STRIP_BYTES // pixels[:1].nbytes)
    strips = [_strip(pixels[top : top + rows]) for top in range(0, len(pixels), rows)]
    offsets = np.cumsum([0, *map(len, strips)]).tolist()
    if offsets.pop() >= _MOST_BYTES:
        raise OutputError("a TIFF is at most 4 GiB; write PNG")
    channels = pixels.shape[2]
    directory[_BASE.ImageWidth] = pixels.shape[1]
    directory[_BASE.ImageLength] = pixels.shape[0]
    directory[_BASE.BitsPerSample] = (pixels.dtype.itemsize * 8,) * channels
    directory[_BASE.Compression] = _DEFLATE
    directory[_BASE.PhotometricInterpretation] = 1 if mode in ("L", "LA") else 2
    # Relative to the end of the directory, which `save` adds.
    directory[_BASE.StripOffsets] = tuple(offsets)
    directory[_BASE.SamplesPerPixel] = channels
    directory[_BASE.RowsPerStrip] = rows
    directory[_BASE.StripByteCounts] = tuple(map(len, strips))
    directory[_BASE.PlanarConfiguration] = 1
    directory[_PREDICTOR] = 1 if is_float else _DIFFERENCE
    directory[_SAMPLE_FORMAT] = (3 if is_float else 1,) * channels
    if mode in ("LA", "RGBA"):
        directory[_EXTRA_SAMPLES] = _STRAIGHT_ALPHA
    head = io.BytesIO()
    directory.save(head)
    return b"".join([head.getvalue(), *strips])


def read_by_tifffile(
    data: bytes, name: str, max_pixels: int
) -> tuple[NDArray[Any], Mode, Image.Exif, dict[str, Any]]:
    """Read a TIFF that Pillow does not read, or not without loss.

    Args:
        data: The file's content.
        name: Name of the file in messages.
        max_pixels: Largest number of pixels.

    Returns:
        Pixels in the orientation of the file, (h, w, channels) uint16 or float32; their mode;
        the directory; and the equivalent of Pillow's `info`.

    Raises:
        PictureError: If tifffile is not installed, or the kind of file is not supported.
    """
    try:
        import imagecodecs  # noqa: F401  # without it tifffile expands strips without a bound
        import tifffile
    except ImportError as error:
        raise PictureError(
            f"{name} is a TIFF that Pillow does not read; {pip_command('tiff')}, or {_REMEDY}"
        ) from error
    index = page_of(data, name)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[index]
        size = page.imagewidth * page.imagelength
        if size > max_pixels:
            raise PictureError(f"{name} has {size} pixels, more than {max_pixels}")
        check_compression(int(page.compression), name)
        mode, dtype = _kind_of(page, name)
        pixels = page.asarray()
        if pixels.ndim == 3 and page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        values = pixels[..., None] if pixels.ndim == 2 else pixels
        info = {"xmp": _value(page, _XMP), "icc_profile": _value(page, _ICC)}
        exif = Image.Exif()
        exif.bigtiff, exif.endian = file.is_bigtiff, file.byteorder
        exif.load_from_fp(io.BytesIO(data), page.offset)
        return values[..., : len(mode)].astype(dtype), mode, exif, info


def _kind_of(page: Any, name: str) -> tuple[Mode, type[np.generic]]:
    extra = tuple(map(int, page.extrasamples))
    channels = page.samplesperpixel - (extra == (0,))  # without a channel of unspecified use
    mode = _MODES.get((page.photometric.name, channels))
    dtype = _DTYPES.get(str(page.dtype))
    if mode is None or dtype is None or extra not in ((), (0,), (_STRAIGHT_ALPHA,)):
        raise PictureError(
            f"{name} has {page.samplesperpixel} {page.photometric.name} channels of "
            f"{page.dtype}{' with premultiplied alpha' * (extra == (1,))}; {_REMEDY}"
        )
    return mode, dtype


def _value(page: Any, tag: int) -> bytes | None:
    entry = page.tags.get(tag)
    return bytes(entry.value) if entry is not None else None


def _describe(directory: ImageFileDirectory_v2, options: dict[str, Any]) -> None:
    """Put the metadata into the directory."""
    if "exif" in options:
        block = Image.Exif()
        block.load(options["exif"])
        for tag in block:
            directory[tag] = _group(block, tag) if tag in _DIRECTORIES else block[tag]
    if "xmp" in options:
        directory[_XMP] = options["xmp"]
    if "iptc" in options:
        directory.tagtype[_IPTC] = TiffTags.UNDEFINED
        directory[_IPTC] = options["iptc"]
    if "icc_profile" in options:
        directory[_ICC] = options["icc_profile"]
    if "dpi" in options:
        directory[_BASE.ResolutionUnit] = _INCH
        directory[_BASE.XResolution], directory[_BASE.YResolution] = options["dpi"]


def _group(block: Image.Exif, tag: int) -> dict[int, Any]:
    """Return a nested directory with the directory nested in it."""
    group = dict(block.get_ifd(tag))
    if ExifTags.IFD.Interop in group:
        group[ExifTags.IFD.Interop] = block.get_ifd(ExifTags.IFD.Interop)
    return group


def _strip(rows: NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    if rows.dtype != np.float32:
        difference = little.copy()
        difference[:, 1:] -= little[:, :-1]
        little = difference
    return zlib.compress(little.tobytes())
