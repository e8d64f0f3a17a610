"""Read and write animations: pictures of several frames, as in GIF, WebP and PNG."""

import io
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from flowsr_runtime.errors import MemoryBudgetError, OutputError, PictureError
from flowsr_runtime.pictures.decoding import decode, eight_bit, picture_errors, upright
from flowsr_runtime.pictures.depth import Depth
from flowsr_runtime.pictures.files import (
    MAX_PIXELS,
    Picture,
    check_output,
    content_of,
    write_content,
)
from flowsr_runtime.pictures.formats import Mode, format_named, kind_of, open_image
from flowsr_runtime.pictures.metadata import orientation_of, save_options, sound_exif
from flowsr_runtime.pictures.picture import MODES

__all__ = [
    "Animation",
    "check_frames",
    "encode_animation",
    "read_animation",
    "write_animation",
]

_ANIMATED: Final = ("GIF", "WEBP", "PNG", "AVIF")
_LONGEST: Final = 65_000.0  # milliseconds of a frame, which every format holds
_UNSTATED: Final = 100.0  # milliseconds of a frame that states none, as browsers show it

_WEBP_FLAGS, _WEBP_ALPHA = 20, 0x10  # of the chunk VP8X, the first of an animation


@dataclass(frozen=True, repr=False)
class Animation:
    """Frames of one size and mode.

    Attributes:
        frames: At least one, of 8 bits if there are several; the profile and the metadata are
            those of the first.
        durations: Time of each frame in milliseconds.
        loop: Number of times that it is shown, 0 for ever.
    """

    frames: tuple[Picture, ...]
    durations: tuple[float, ...] = (_UNSTATED,)
    loop: int = 0

    def promoted(self, depth: Depth) -> "Animation":
        """Return the frames at a depth, or as they are if their own is finer."""
        frames = tuple(frame.promote_depth(depth) for frame in self.frames)
        return replace(self, frames=frames)


def read_animation(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS
) -> Animation:
    """Read all frames of a GIF, WebP, PNG or AVIF; any other picture is one frame.

    Args:
        source: As for `read_picture`.
        max_pixels: Largest number of pixels of all frames together.

    Raises:
        PictureError: As for `read_picture`, or if several frames have more than 8 bits.
        MemoryBudgetError: If they do not fit in memory.
    """
    data, name = content_of(source)
    first = decode(data, name, max_pixels, frames=True)
    if kind_of(data) not in _ANIMATED:
        return Animation((first,))
    with picture_errors(name, max_pixels):
        image = open_image(data, name)
        if not getattr(image, "is_animated", False):
            return Animation((first,))
        if first.depth != 8:
            raise PictureError(f"{name} has several frames of 16 bits; give frames of 8 bits")
        arrays, durations = _frames_of(image, name, max_pixels)
        turn = orientation_of(sound_exif(image, name))
        frames = [Picture(upright(pixels, turn)) for pixels in _of_one_mode(arrays)]
        frames[0] = replace(first, pixels=frames[0].pixels)
        return Animation(tuple(frames), tuple(durations), _plays(image))


def check_frames(name: str | os.PathLike[str], format: str, animation: Animation) -> None:
    """Check that a format holds the frames, before slow work.

    Args:
        name: Name of the output in messages.
        format: Name or suffix of the format.
        animation: The frames.

    Raises:
        OutputError: If it does not, or there is no such format.
    """
    target = format_named(format)
    if len(animation.frames) > 1 and not target.frames:
        raise OutputError(
            f"{name} cannot be written: {target.name} holds one frame; write PNG or WebP",
            option="format",
        )


def write_animation(
    path: str | os.PathLike[str],
    animation: Animation,
    *,
    force: bool = False,
    quality: int | None = None,
) -> None:
    """Write an animation atomically; a failure leaves the old file intact.

    Args:
        path: Picture file; its suffix selects the format.
        animation: The frames.
        force: Replace an existing file.
        quality: As for `write_picture`.

    Raises:
        OutputError: If it cannot be written.
    """
    first = animation.frames[0]
    check_output(path, force, like=first, size=first.size)
    check_frames(path, Path(path).suffix, animation)
    data = encode_animation(animation, Path(path).suffix, quality=quality, name=str(path))
    write_content(path, data)


def encode_animation(
    animation: Animation,
    format: str,
    *,
    quality: int | None = None,
    name: str = "the picture",
) -> bytes:
    """Encode an animation as a file.

    Args:
        animation: Frames of 8 bits.
        format: Name or suffix of a format that holds animations: PNG or WebP.
        quality: As for `encode_picture`.
        name: Name of the file in messages.

    Returns:
        The file's content.

    Raises:
        OutputError: If the format holds no animation, or the frames cannot be encoded.
        MemoryBudgetError: If it does not fit in memory.
    """
    target, first = format_named(format), animation.frames[0]
    check_frames(name, format, animation)
    options = save_options(first.metadata, target, first.icc, first.size)
    images = [_image(frame.pixels, gray=target.gray) for frame in animation.frames]
    buffer = io.BytesIO()
    try:
        images[0].save(
            buffer,
            format=target.name,
            save_all=True,
            append_images=images[1:],
            duration=[max(1, round(time)) for time in animation.durations],
            loop=animation.loop,
            **target.options_at(quality),
            **options,
        )
    except MemoryError as error:
        raise MemoryBudgetError(f"{name} does not fit in memory as {target.name}") from error
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise OutputError(f"{name} cannot be encoded as {target.name}: {reason}") from error
    data = bytearray(buffer.getvalue())
    if target.name == "WEBP" and len(images) > 1 and first.alpha is not None:
        # libwebp cuts the transparent border off a frame, and then states no alpha.
        data[_WEBP_FLAGS] |= _WEBP_ALPHA
    return bytes(data)


def _frames_of(
    image: ImageFile.ImageFile, name: str, max_pixels: int
) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """Return the pixels of each frame, (h, w, channels), and its time in milliseconds."""
    arrays: list[NDArray[np.uint8]] = []
    durations: list[float] = []
    first = int(getattr(image, "default_image", False))  # a PNG's, shown by other decoders
    for index in itertools.count(first):
        try:
            image.seek(index)
        except EOFError:
            break
        pixels = (len(arrays) + 1) * image.width * image.height
        if pixels > max_pixels:
            raise PictureError(f"{name} has frames of {pixels} pixels, more than {max_pixels}")
        image.load()
        arrays.append(eight_bit(image)[0])
        durations.append(_duration(image.info.get("duration")))
    return arrays, durations


def _duration(value: Any) -> float:
    """Return a time in milliseconds that every format holds."""
    time = float(value) if isinstance(value, (int, float)) else 0.0
    return min(time, _LONGEST) if time > 0 else _UNSTATED


def _plays(image: ImageFile.ImageFile) -> int:
    """Return how often an animation is shown, 0 for ever."""
    loop = image.info.get("loop", 0 if image.format == "AVIF" else None)
    if loop is None:
        return 1
    number = int(loop)
    return number + 1 if image.format == "GIF" and number else number  # GIF counts repeats


def _of_one_mode(arrays: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Return frames, (h, w, channels), with color and alpha if any of them has it."""
    modes: list[Mode] = [MODES[pixels.shape[2]] for pixels in arrays]
    color = any(mode in ("RGB", "RGBA") for mode in modes)
    alpha = any(mode in ("LA", "RGBA") for mode in modes)
    return [_with(pixels, color=color, alpha=alpha) for pixels in arrays]


def _with(pixels: NDArray[np.uint8], *, color: bool, alpha: bool) -> NDArray[np.uint8]:
    has_alpha = pixels.shape[2] in (2, 4)
    values = pixels[..., :-1] if has_alpha else pixels
    if color and values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    if not alpha:
        return values
    opaque = np.full(pixels.shape[:2], 255, dtype=np.uint8)
    return np.dstack([values, pixels[..., -1] if has_alpha else opaque])


def _image(pixels: NDArray[Any], *, gray: bool) -> Image.Image:
    """Return pixels as an image of Pillow, in color where a format holds no gray."""
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(flat))
    if gray or image.mode not in ("L", "LA"):
        return image
    return image.convert("RGB" if image.mode == "L" else "RGBA")
