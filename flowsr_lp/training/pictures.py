"""Folders of training pictures in bounded memory: what does not fit is decoded when needed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.errors import PictureError

__all__ = ["MEMORY", "PictureFolder", "load_pictures"]

logger = logging.getLogger(__name__)

MEMORY = 512 * 2**20
"""Bytes of decoded pictures that are kept, unless another number is given."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# Exceptions of Pillow for files that are damaged or of another format.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class PictureFolder(Sequence[NDArray[np.uint8]]):
    """Pictures of a folder, sorted by name; the first ones that are read stay in memory.

    Crops take every picture equally often, so that no order of eviction would be better.

    Attributes:
        smallest: Shortest side of all pictures, in pixels.
        memory: Bytes of decoded pictures that are kept at most.
    """

    def __init__(self, paths: Sequence[Path], smallest: int, memory: int) -> None:
        """Take files that are known to be pictures; nothing is decoded."""
        self.smallest = smallest
        self.memory = memory
        self._paths = tuple(paths)
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._used = 0

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, index: slice) -> list[NDArray[np.uint8]]: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
        """Return a picture, (H, W, 3) uint8.

        Raises:
            PictureError: If the file is damaged.
        """
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if index in self._kept:
            return self._kept[index]
        picture = _read(self._paths[index])
        if self._used + picture.nbytes <= self.memory:
            self._kept[index] = picture
            self._used += picture.nbytes
        return picture

    def fill(self) -> None:
        """Decode the first pictures, as many as memory holds: damaged ones are found at once.

        Raises:
            PictureError: If a file is damaged.
        """
        for index in range(len(self)):
            if self[index].nbytes and index not in self._kept:
                return

    def hand_over(self, workers: int) -> PictureFolder:
        """Give the memory to worker processes: nothing is kept here any more.

        Returns:
            The same pictures, none decoded, with one worker's share of the memory.
        """
        share = PictureFolder(self._paths, self.smallest, self.memory // workers)
        self.memory = self._used = 0
        self._kept.clear()
        return share


def load_pictures(
    folder: Path, smallest: int, memory: int = MEMORY, decode: bool = True
) -> PictureFolder:
    """Find the pictures of a folder, and decode as many as memory holds.

    Args:
        folder: Folder of PNG, JPEG, WebP or BMP files; sub-folders are not read.
        smallest: Side in pixels below which a picture is of no use.
        memory: Bytes of decoded pictures to keep; the others are decoded at each use.
        decode: Whether to decode pictures at once; worker processes do it for themselves.

    Returns:
        RGB pictures, each (H, W, 3) uint8, sorted by file name.

    Raises:
        PictureError: If the folder is missing, a file is damaged, or none is large enough.
            Damage of pictures not decoded yet, past their headers, is found at their use.
    """
    if not folder.is_dir():
        rule = "is not a folder" if folder.exists() else "does not exist"
        raise PictureError(f"folder of images {folder} {rule}")
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    sides = {path: _side(path) for path in paths}
    large = [path for path, side in sides.items() if side >= smallest]
    if not large:
        raise PictureError(f"no picture of at least {smallest} pixels a side in {folder}")
    if len(large) < len(paths):
        logger.warning(
            "left out %d of %d pictures: smaller than %d pixels a side",
            len(paths) - len(large),
            len(paths),
            smallest,
        )
    pictures = PictureFolder(large, min(sides[path] for path in large), memory)
    if decode:
        pictures.fill()
    return pictures


def _side(path: Path) -> int:
    """Return the shorter side of a picture from its header."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return int(min(width, height))
    except UNREADABLE as error:
        raise PictureError(f"cannot read picture {path}: {error}") from error


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except UNREADABLE as error:
        raise PictureError(f"cannot read picture {path}: {error}") from error
