"""Tell a bundle from images on a command line, and name outputs beside their inputs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from flowsr_runtime.bundle.directory import MANIFEST_NAME
from flowsr_runtime.errors import BundleError, UsageError
from flowsr_runtime.geometry import exact_scale, size_text
from flowsr_runtime.pictures.formats import READ_SUFFIXES, READABLE, named_kind

__all__ = [
    "BUNDLE_SUFFIX",
    "STREAM",
    "Sides",
    "is_earlier_output",
    "is_image_name",
    "output_beside",
    "split_bundle",
]

Sides = tuple[int | None, int | None]
"""Output (H, W); None for a side that follows from the image's shape."""

STREAM = Path("-")
"""Name of stdin among inputs, and of stdout as the output."""

BUNDLE_SUFFIX = ".bundle"
HEAD_BYTES = 128  # of a file, which tell its format
OUTPUT = re.compile(r"(.+)_(x\d+(\.\d+)?(x\d+(\.\d+)?)?|\d+x\d+|\d+[wh])")
"""Stem of an output that `output_beside` names, and of its input."""


def split_bundle(inputs: Sequence[Path]) -> tuple[Path | None, tuple[Path, ...]]:
    """Separate a leading bundle from the images.

    The first argument is the bundle if it is a folder with bundle.json or its name ends with
    ".bundle". Otherwise it must be an image, or a folder that holds one, so that a mistyped
    bundle never runs another model.

    Args:
        inputs: Arguments of the command line, at least one.

    Returns:
        Path of the bundle, None for the built-in one, and the images.

    Raises:
        BundleError: If the first argument is neither a bundle nor images.
        UsageError: If there is a bundle and no image, or a bundle after the images.
    """
    first, *rest = inputs
    late = next((path for path in rest if _is_named_bundle(path)), None)
    if late is not None:
        raise UsageError(f"the bundle must come before the images, got {late} after {first}")
    if _is_named_bundle(first):
        if not rest and os.path.isfile(first / MANIFEST_NAME):
            raise UsageError(f"{first} is a bundle; name the images after it")
        return first, tuple(rest)
    if first == STREAM:
        return None, tuple(inputs)
    if rest or not os.path.isdir(first):  # an empty folder alone is reported as one of images
        _check_images(first)
    return None, tuple(inputs)


def output_beside(
    source: Path, scale: str | tuple[str, str] | None, size: Sides | None, suffix: str
) -> Path:
    """Return the output file beside an input, such as photo_x4.png or photo_1920x1080.png.

    A size of one side gives photo_1920w.png or photo_1080h.png.

    Args:
        source: Input file.
        scale: Scale, one number or (vertical, horizontal); not used with a size.
        size: Output size.
        suffix: Suffix of the output.
    """
    if size is not None:
        return source.with_name(f"{source.stem}_{_size_name(size)}{suffix}")
    pair = scale if isinstance(scale, tuple) else (scale, scale)
    rows, columns = (f"{float(exact_scale(factor or 1)):g}" for factor in pair)
    text = rows if rows == columns else f"{columns}x{rows}"
    return source.with_name(f"{source.stem}_x{text}{suffix}")


def is_earlier_output(path: Path, stems: set[str]) -> bool:
    """Return whether a file of a folder is named like an output of another file in it.

    Args:
        path: The file.
        stems: Names of the folder's images without suffix.
    """
    match = OUTPUT.fullmatch(path.stem)
    return match is not None and match[1] in stems


def is_image_name(path: Path) -> bool:
    """Return whether a file of a folder is named like an image, and not hidden."""
    return path.suffix.lower() in READ_SUFFIXES and not path.name.startswith(".")


def _size_name(size: Sides) -> str:
    rows, columns = size
    if rows is None or columns is None:
        return f"{columns}w" if rows is None else f"{rows}h"
    return size_text((rows, columns))


def _is_named_bundle(path: Path) -> bool:
    # These functions return False for a path that may not be read or is too long.
    return path.suffix.lower() == BUNDLE_SUFFIX or os.path.isfile(path / MANIFEST_NAME)


def _check_images(path: Path) -> None:
    """Refuse a first argument that is no image and no folder with one.

    Raises:
        BundleError: If it is not; a file that cannot be read is left to the reader of images.
    """
    neither = f"{path} is neither a bundle nor an image"
    try:
        if path.is_dir():
            if not any(is_image_name(entry) for entry in path.iterdir()):
                raise BundleError(f"{neither}: it holds no {MANIFEST_NAME} and no image")
        elif path.suffix.lower() not in READ_SUFFIXES:
            if not path.exists():
                raise BundleError(f"{neither}: it does not exist")
            if path.is_file() and named_kind(_head(path)) is None:  # a pipe is read once
                raise BundleError(f"{neither} of {READABLE}")
    except OSError:
        return


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
