"""Images in folders: which are read, which are left out, and where their outputs go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flowsr_export.upscale.inputs import is_earlier_output, is_image_name
from flowsr_runtime.errors import PictureError

__all__ = [
    "Found",
    "earlier_outputs",
    "images_of",
    "is_same_folder",
    "other_files",
    "with_subfolders",
]


@dataclass(frozen=True)
class Found:
    """An image to upscale.

    Attributes:
        path: The file.
        below: Its folder, relative to the folder that was given.
    """

    path: Path
    below: Path = Path()


def images_of(
    path: Path, *, recursive: bool = False, output: Path | None = None
) -> list[Found]:
    """Return the images of an input: itself, or those of a folder, in order.

    A folder that cannot be read is returned, so that it fails as an image does.

    Args:
        path: Image file or folder.
        recursive: Search the folders in it too.
        output: Folder that is not searched.

    Raises:
        PictureError: If a folder holds no image.
    """
    if not os.path.isdir(path):
        return [Found(path)]
    found: list[Found] = []
    for folder in _folders(path, recursive, output):
        images = _images_in(folder)
        if images is None:
            found.append(Found(folder))
            continue
        outputs = set(_earlier_outputs_in(images))
        below = folder.relative_to(path)
        found += [Found(entry, below) for entry in images if entry not in outputs]
    if not found:
        raise PictureError(f"folder {path} holds no image")
    return found


def with_subfolders(inputs: Sequence[Path], recursive: bool, output: Path | None) -> list[Path]:
    """Return the inputs, each folder followed by the folders in it if they are searched.

    Args:
        inputs: Image files and folders.
        recursive: As for `images_of`.
        output: As for `images_of`.
    """
    return [
        each
        for path in inputs
        for each in (_folders(path, recursive, output) if os.path.isdir(path) else [path])
    ]


def earlier_outputs(inputs: Sequence[Path]) -> list[Path]:
    """Return the images in folders that `images_of` leaves out.

    They are named like the output of another image in their folder: photo_x4.png or
    photo_1920x1080.png beside photo.jpg. An image that is named itself is never left out.

    Args:
        inputs: Image files and folders; those in them are not searched.
    """
    named = {path for path in inputs if not os.path.isdir(path)}
    return [
        entry
        for path in inputs
        if os.path.isdir(path)
        for entry in _earlier_outputs_in(_images_in(path) or [])
        if entry not in named
    ]


def other_files(inputs: Sequence[Path]) -> dict[str, int]:
    """Count the files in folders that are no images by their names, by kind as in "HEIC".

    Args:
        inputs: Image files and folders; hidden files are not counted.
    """
    kinds: Counter[str] = Counter()
    for folder in filter(os.path.isdir, inputs):
        with suppress(OSError):
            for entry in folder.iterdir():
                if not (entry.name.startswith(".") or is_image_name(entry) or entry.is_dir()):
                    kinds[entry.suffix[1:].upper() or "without a suffix"] += 1
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def is_same_folder(folder: Path, other: Path | None) -> bool:
    """Return whether two names, of which either may not exist, lead to one folder."""
    try:
        return other is not None and os.path.samefile(folder, other)
    except OSError:
        return False


def _folders(path: Path, recursive: bool, output: Path | None) -> Iterator[Path]:
    """Iterate over a folder and the folders in it, without hidden ones and links."""
    yield path
    if not recursive:
        return
    with suppress(OSError):  # an unreadable folder is reported where its images are listed
        for entry in sorted(path.iterdir()):
            hidden = entry.name.startswith(".") or entry.is_symlink()
            if entry.is_dir() and not hidden and not is_same_folder(entry, output):
                yield from _folders(entry, recursive, output)


def _images_in(folder: Path) -> list[Path] | None:
    """Return the images of a folder in order, None if it cannot be read."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return None
    return [entry for entry in entries if is_image_name(entry)]


def _earlier_outputs_in(images: Sequence[Path]) -> list[Path]:
    stems = {image.stem for image in images}
    return [image for image in images if is_earlier_output(image, stems)]
