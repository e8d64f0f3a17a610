"""Read images with their frames, and write results: to files and to stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from flowsr_export.upscale.inputs import STREAM
from flowsr_runtime import Picture, check_output, encode_picture, read_picture, write_picture
from flowsr_runtime.errors import OutputError, PictureError
from flowsr_runtime.pictures.alpha import flatten
from flowsr_runtime.pictures.animation import (
    Animation,
    check_frames,
    encode_animation,
    read_animation,
    write_animation,
)
from flowsr_runtime.pictures.depth import Depth
from flowsr_runtime.pictures.files import SUFFIXES, check_picture
from flowsr_runtime.pictures.formats import format_named
from flowsr_runtime.pictures.metadata import fitting

__all__ = [
    "check_target",
    "format_of",
    "read_source",
    "with_background",
    "with_fitting_metadata",
    "write_result",
]

_STDOUT = "stdout"


def read_source(source: Path, *, all_frames: bool) -> Animation:
    """Read an image, from stdin if it is `STREAM`.

    Args:
        source: Image file.
        all_frames: Read all frames of an animation instead of the first.

    Raises:
        PictureError: If it cannot be read.
        MemoryBudgetError: If it does not fit in memory.
    """
    if source != STREAM:
        _check_source(source)
    given = sys.stdin.buffer if source == STREAM else source
    return read_animation(given) if all_frames else Animation((read_picture(given),))


def format_of(target: Path, format: str | None, depth: Depth | None) -> str:
    """Return the suffix of an output's format; stdout has PNG unless a format is given."""
    if target != STREAM:
        return target.suffix
    return f".{format or ('tif' if depth == 'float' else 'png')}"


def with_background(
    animation: Animation, format: str, color: tuple[int, int, int] | None
) -> Animation:
    """Lay frames with alpha over a color, for a format that holds no alpha.

    Args:
        animation: Frames of one mode.
        format: Suffix of the output.
        color: Red, green and blue from 0 to 255; None leaves the frames as they are.
    """
    first = animation.frames[0]
    if color is None or first.alpha is None or format.lower() not in SUFFIXES:
        return animation
    if format_named(format).alpha:
        return animation
    frames = [replace(one, pixels=flatten(one.pixels, color)) for one in animation.frames]
    if frames[0].gray != first.gray:  # a profile of gray does not describe colors
        frames[0] = replace(frames[0], icc=None)
    return replace(animation, frames=tuple(frames))


def with_fitting_metadata(
    animation: Animation, format: str, size: tuple[int, int]
) -> Animation:
    """Leave out the metadata that a format does not hold; the log names it, before slow work.

    Args:
        animation: The image.
        format: Suffix of the output.
        size: Output size (H, W).
    """
    if format.lower() not in SUFFIXES:
        return animation
    first, *rest = animation.frames
    kept = fitting(first.metadata, format_named(format), size)
    return replace(animation, frames=(replace(first, metadata=kept), *rest))


def check_target(
    target: Path,
    format: str,
    animation: Animation,
    size: tuple[int, int],
    *,
    force: bool,
    depth: Depth | None,
) -> None:
    """Check that a result can be written, before slow work.

    Args:
        target: Output file, or `STREAM`.
        format: Suffix of its format.
        animation: The image.
        size: Output size (H, W).
        force: Replace an existing file.
        depth: Depth to write with, None for that of the image.

    Raises:
        OutputError: If it cannot be written.
    """
    first = animation.frames[0]
    if len(animation.frames) > 1 and depth not in (None, 8):
        raise OutputError(f"several frames are of 8 bits, got depth {depth}", option="depth")
    if target == STREAM:
        check_picture(_STDOUT, format, first, size, depth or first.depth)
    else:
        check_output(target, force, like=first, size=size, depth=depth)
    check_frames(_STDOUT if target == STREAM else target, format, animation)


def write_result(
    target: Path,
    format: str,
    animation: Animation,
    results: Sequence[NDArray[Any]],
    *,
    force: bool,
    depth: Depth | None,
    quality: int | None,
) -> None:
    """Write the upscaled frames of an image.

    Args:
        target: Output file, or `STREAM`.
        format: Suffix of its format.
        animation: The image, whose profile and metadata are written.
        results: Upscaled frames.
        force: Replace an existing file.
        depth: Depth to write with, None for that of the results.
        quality: As for `encode_picture`.

    Raises:
        OutputError: If it cannot be written.
    """
    first = animation.frames[0]
    if len(results) > 1:
        frames = [Picture(pixels) for pixels in results]
        frames[0] = replace(first, pixels=frames[0].pixels)
        large = replace(animation, frames=tuple(frames))
        if target == STREAM:
            _write_stdout(encode_animation(large, format, quality=quality, name=_STDOUT))
        else:
            write_animation(target, large, force=force, quality=quality)
    elif target == STREAM:
        options: dict[str, Any] = {"like": first, "depth": depth, "quality": quality}
        _write_stdout(encode_picture(results[0], format, **options))
    else:
        write_picture(target, results[0], like=first, force=force, depth=depth, quality=quality)


def _write_stdout(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise OutputError(f"stdout cannot be written: {error.strerror}") from error


def _check_source(path: Path) -> None:
    """Check an input before its output, so that a missing one is what is reported."""
    try:
        os.lstat(path)
    except FileNotFoundError as error:
        raise PictureError(f"{path} does not exist") from error
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}") from error
