"""Read and write picture files, keeping alpha, gray, the colour profile and the old file."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from flowsr_runtime.disk import replace_file
from flowsr_runtime.errors import MemoryBudgetError, OutputError, PictureError, ShapeError

__all__ = ["MAX_PIXELS", "SUFFIXES", "Picture", "check_output", "read_picture", "write_picture"]

MAX_PIXELS: Final = 178_956_970
"""Largest picture that is read: Pillow's own limit for a decompression bomb."""

SUFFIXES: Final = {
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Formats that are read and written, by lower-case suffix."""

_FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MAX_SIDE: Final = {"JPEG": 65500, "WEBP": 16383}  # what libjpeg and libwebp can write
# Pictures lose nothing by being written, save in JPEG, where 4:4:4 at 95 loses little.
_SAVE_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "BMP": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True},
}

_TIFF_BITS_PER_SAMPLE: Final = 258

Mode = Literal["L", "LA", "RGB", "RGBA"]


@dataclass(frozen=True)
class Picture:
    """A picture, upright, with its alpha apart.

    Attributes:
        rgb: Colours, (h, w, 3) uint8; a gray picture has three equal channels.
        alpha: Alpha, (h, w) uint8, or None.
        mode: What the file held, and what a result is written as: gray or RGB, with alpha
            or without. A palette counts as RGB.
        icc: ICC profile, or None.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    mode: Mode = "RGB"
    icc: bytes | None = None


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a PNG, JPEG, WebP, BMP or TIFF picture of 8 bits per channel.

    Args:
        path: Picture file.

    Returns:
        The picture, turned upright as its EXIF orientation says.

    Raises:
        PictureError: If the file is missing, damaged, too large, or of a kind that is not
            read.
        MemoryBudgetError: If it does not fit in memory.
    """
    data = _read_bytes(Path(path))
    with _as_picture_errors(Path(path)):
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        _check_kind(image, Path(path))
        icc = image.info.get("icc_profile")
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _picture(upright, icc if isinstance(icc, bytes) and icc else None)


def check_output(
    path: str | os.PathLike[str],
    force: bool = False,
    *,
    like: Picture | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Check that a picture can be written, before slow work.

    Args:
        path: Picture file to write.
        force: Replace a file that is there.
        like: Picture whose alpha and colour profile are to be kept.
        size: Size (H, W) of the picture that is to be written.

    Raises:
        OutputError: If the suffix is unknown, the folder is missing or read-only, the file
            is there and `force` is not given, or the format cannot hold the picture.
    """
    target = Path(path)
    kind = SUFFIXES.get(target.suffix.lower())
    if kind is None:
        raise OutputError(f"{target} must end in one of {', '.join(SUFFIXES)}")
    if not target.parent.is_dir():
        raise OutputError(f"{target} cannot be written: no folder {target.parent}")
    if target.is_dir():
        raise OutputError(f"{target} cannot be written: it is a folder")
    if os.path.lexists(target) and not force:
        raise OutputError(f"{target} exists; replace it with force (--force)")
    if not os.access(target.parent, os.W_OK):
        raise OutputError(f"{target} cannot be written: folder {target.parent} is read-only")
    _check_format(target, kind, like, size)


def write_picture(
    path: str | os.PathLike[str],
    rgb: NDArray[np.uint8],
    *,
    like: Picture | None = None,
    force: bool = False,
) -> None:
    """Write a picture atomically; on any failure what stood there is intact.

    Args:
        path: Picture file, whose suffix tells the format.
        rgb: Colours, (H, W, 3) uint8.
        like: Picture that `rgb` was made from: its alpha is resized (bilinear) and added,
            gray becomes gray again, its colour profile is kept.
        force: Replace a file that is there.

    Raises:
        ShapeError: If `rgb` is not (H, W, 3) uint8.
        OutputError: If it cannot be written.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ShapeError(f"picture must be (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    target = Path(path)
    check_output(target, force, like=like, size=(rgb.shape[0], rgb.shape[1]))
    data = _encode(_joined(rgb, like), target, None if like is None else like.icc)
    try:
        replace_file(target, data)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {_reason(error)}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise PictureError(f"{path} does not exist") from error
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {_reason(error)}") from error
    if not data:
        raise PictureError(f"{path} is empty")
    return data


@contextmanager
def _as_picture_errors(path: Path) -> Iterator[None]:
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on metadata
            yield
    except (PictureError, MemoryBudgetError):
        raise
    except bombs as error:
        raise PictureError(f"{path} has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        kinds = "PNG, JPEG, WebP, BMP or TIFF"
        raise PictureError(f"{path} is not a {kinds} picture") from error
    except MemoryError as error:
        raise MemoryBudgetError(f"{path} does not fit in memory") from error
    except Exception as error:  # decoders raise anything on damaged files
        raise PictureError(f"{path} is damaged: {_reason(error)}") from error


def _check_kind(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"{path} has {width * height} pixels, more than {MAX_PIXELS}")
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or _is_cut_to_8_bits(image):
        raise PictureError(f"{path} has more than 8 bits per channel; convert it to 8 bits")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"):
        raise PictureError(f"{path} is {image.mode}; convert it to RGB")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a camera's JPEG with a preview behind it
        raise PictureError(f"{path} has {frames} frames; give a file with one")


def _is_cut_to_8_bits(image: Image.Image) -> bool:
    """Return whether Pillow would cut 16-bit channels down to 8 without a word."""
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (1,))
        return bool(max(bits) > 8)
    # Pillow's name for how the pixels are packed, such as "RGB;16B".
    packings = [tile[3] for tile in getattr(image, "tile", [])]
    return image.format == "PNG" and any(";16" in str(packing) for packing in packings)


def _picture(image: Image.Image, icc: bytes | None) -> Picture:
    gray = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        colours, alpha = np.ascontiguousarray(pixels[..., :3]), pixels[..., 3].copy()
        return Picture(colours, alpha, "LA" if gray else "RGBA", icc)
    return Picture(np.array(image.convert("RGB")), None, "L" if gray else "RGB", icc)


def _check_format(
    target: Path, kind: str, like: Picture | None, size: tuple[int, int] | None
) -> None:
    most = _MAX_SIDE.get(kind)
    if size is not None and most is not None and max(size) > most:
        raise OutputError(
            f"{target} cannot be written: {kind} sides are at most {most} pixels, "
            f"got {size[0]}x{size[1]}; write PNG"
        )
    if like is not None and like.alpha is not None and kind in ("JPEG", "BMP"):
        raise OutputError(f"{target} cannot be written: {kind} holds no alpha; write PNG")
    if like is not None and like.icc is not None and kind == "BMP":
        raise OutputError(f"{target} cannot be written: BMP holds no ICC profile; write PNG")


def _joined(rgb: NDArray[np.uint8], like: Picture | None) -> Image.Image:
    image = Image.fromarray(rgb)
    if like is None:
        return image
    if like.mode in ("L", "LA"):
        image = image.convert("L")
    if like.alpha is not None:
        alpha = Image.fromarray(like.alpha)
        image.putalpha(alpha.resize(image.size, Image.Resampling.BILINEAR))
    return image


def _encode(image: Image.Image, target: Path, icc: bytes | None) -> bytes:
    kind = SUFFIXES[target.suffix.lower()]
    profile = {} if icc is None else {"icc_profile": icc}
    buffer = io.BytesIO()  # so that a full disk shows as such, not as an encoder's error
    try:
        image.save(buffer, format=kind, **_SAVE_OPTIONS[kind], **profile)
    except (OSError, ValueError) as error:
        raise OutputError(f"{target} cannot be encoded as {kind}: {_reason(error)}") from error
    return buffer.getvalue()


def _reason(error: BaseException) -> str:
    """Return an error's text on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
