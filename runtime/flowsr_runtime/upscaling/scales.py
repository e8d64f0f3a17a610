"""Several scales of one image: their check, their progress, and which of them are tiled."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import Number
from flowsr_runtime.pictures.files import read_picture
from flowsr_runtime.pictures.picture import Picture
from flowsr_runtime.pictures.pil import from_pil, to_pil
from flowsr_runtime.tiling.tiles import Plan
from flowsr_runtime.upscaling.tile_loop import Progress

__all__ = [
    "MergedProgress",
    "ScaleOrPair",
    "check_scales",
    "pixels_of",
    "tiled_scales",
    "work_of",
]

_COUNTS = ("per_lr_pixel", "per_patch")
# Time of a multiply-add of a patch to one of a pixel, for what is computed beside it: 2.4 with
# the built-in model, 1.4 with edsr-baseline; ONNX Runtime on two CPU cores.
_SLOWER = 2

ScaleOrPair = Number | tuple[Number, Number]
"""A scale, or one each for rows and columns."""


def check_scales(scales: object, *, scale: object, size: object) -> None:
    """Check the form of several scales; each value is checked when it is used.

    Args:
        scales: A sequence of scales.
        scale: The argument for one scale, which must be None.
        size: The argument for a size, which must be None.

    Raises:
        ScaleError: If they are no sequence, or empty, or another argument is given.
    """
    if scale is not None or size is not None:
        raise ScaleError("give exactly one of scale, scales and size")
    if isinstance(scales, (str, bytes)) or not isinstance(scales, Sequence) or not scales:
        raise ScaleError(f"scales must be a list of scales, got {scales!r}")


def pixels_of(image: Any) -> tuple[NDArray[Any], Callable[[NDArray[Any]], Any]]:
    """Return the pixels of an image, and a function that gives others the image's kind.

    Args:
        image: As for `Upscaler.upscale`; a file is read.

    Raises:
        PictureError: If the file or Pillow's image cannot be read.
    """
    if isinstance(image, Image.Image):
        return from_pil(image), lambda pixels: to_pil(pixels, like=image)
    picture = read_picture(image) if isinstance(image, (str, os.PathLike)) else image
    if isinstance(picture, Picture):
        return picture.pixels, lambda pixels: replace(picture, pixels=pixels)
    return image, lambda pixels: pixels


def tiled_scales(scales: Iterable[ScaleOrPair], plans: Iterable[Plan]) -> str | None:
    """Say in one line which scales need tiles, and so run their encoder again.

    Args:
        scales: The scales.
        plans: Plan of each.

    Returns:
        The line, None if no scale needs tiles.
    """
    tiled = [str(scale) for scale, plan in zip(scales, plans, strict=True) if len(plan) > 1]
    if not tiled:
        return None
    return (
        f"scale {', '.join(tiled)} needs tiles, whose encoder runs again; a larger "
        "memory_budget avoids them"
    )


def work_of(manifest: Manifest) -> tuple[float, float]:
    """Return the work of an LR pixel and of a patch, to compare plans by.

    It follows from the multiply-adds that the bundle states; of one that states none it is the
    bytes, by which `TilePlanner` weighs them.
    """
    for entry in manifest.raw["files"].values():
        stated = entry.get("multiply_adds")
        pixel, patch = (stated.get(n) if isinstance(stated, dict) else None for n in _COUNTS)
        if isinstance(pixel, (int, float)) and isinstance(patch, (int, float)):
            return pixel, _SLOWER * patch
    return manifest.memory.bytes_per_pixel, manifest.memory.bytes_per_patch


class MergedProgress:
    """The progress of several runs as one, in tiles."""

    def __init__(self, progress: Progress | None, tiles: Sequence[int]) -> None:
        """Start.

        Args:
            progress: Called with (tiles done, tiles in all) of all runs, None for nothing.
            tiles: Planned tiles of each run.
        """
        self._progress, self._tiles = progress, list(tiles)
        self._done = [0] * len(tiles)

    def part(self, index: int) -> Progress | None:
        """Return the progress of one run."""
        progress = self._progress
        if progress is None:
            return None

        def report(done: int, tiles: int) -> None:
            self._done[index], self._tiles[index] = done, tiles
            progress(sum(self._done), sum(self._tiles))

        return report
