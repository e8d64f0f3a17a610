"""Image pairs for an evaluation: originals and their low-resolution partners."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.imresize import WHITE, Filter, reduced
from flowsr_export.evaluation.protocol import OWN, Protocol, Rounding
from flowsr_runtime import output_size, read_picture
from flowsr_runtime.errors import PictureError, UsageError
from flowsr_runtime.geometry import exact_scale, size_text
from flowsr_runtime.pictures.depth import depth_text
from flowsr_runtime.pictures.files import SUFFIXES

__all__ = ["Pair", "find_pairs", "read_opaque"]

Picture = NDArray[np.uint8]

ORIGINAL = re.compile(r"[_-](HR|GT)$", re.IGNORECASE)
SCALE_FOLDER = re.compile(r"x\d+(\.\d+)?$", re.IGNORECASE)
# Folders inside a set that do not name it.
PART = re.compile(r"x\d+(\.\d+)?|HR|GT|GTmod\d+|image_SRF_\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """One original at one scale.

    Attributes:
        dataset: Name of the set.
        name: Name of the file without its suffix, `_HR` and `_GT`.
        scale: Scale as it was typed.
        hr: File of the original.
        lr: File of the low-resolution partner, None to downscale the original.
        downsample: Filter that downscales it.
        rounding: Rule for an output side of half a pixel.
    """

    dataset: str
    name: str
    scale: str
    hr: Path
    lr: Path | None
    downsample: Filter = OWN.downsample
    rounding: Rounding = OWN.rounding

    def __str__(self) -> str:
        """Name of the pair in messages."""
        return f"{self.dataset} {self.name} ×{self.scale}"

    def read(self) -> tuple[Picture, Picture]:
        """Read the original and the input.

        As in LINF's and LIIF's evaluation, the input has floor(side / scale) pixels a side, and
        the original is cropped at the bottom and on the right to the upscaled size.

        Returns:
            The cropped original, (H, W, 3) uint8, and the input, (h, w, 3) uint8: the partner,
            or the original downscaled by a bicubic filter.

        Raises:
            PictureError: If a file cannot be read, is transparent or deeper than eight bits,
                the original is smaller than the scale, or the partner has another size.
        """
        original, scale = read_opaque(self.hr), exact_scale(self.scale)
        height, width = original.shape[0], original.shape[1]
        at_scale = f"{self.hr}, {size_text((height, width))}, at ×{self.scale}"
        low_size = math.floor(height / scale), math.floor(width / scale)
        if min(low_size) < 1:
            raise PictureError(f"{at_scale} must have a low-resolution pixel a side, got none")
        rows, columns = (
            output_size(side, scale) if self.rounding == "half-up" else round(side * scale)
            for side in low_size
        )
        original = np.ascontiguousarray(original[:rows, :columns])
        if self.lr is None:
            return original, reduced(original, low_size, self.downsample)
        low = read_opaque(self.lr)
        if low.shape[:2] != low_size:
            got = size_text((low.shape[0], low.shape[1]))
            needed = f"must be {size_text(low_size)} for {at_scale}"
            raise PictureError(f"{self.lr} {needed}, got {got}")
        return original, low


def find_pairs(
    hr: Sequence[Path],
    lr: Sequence[Path],
    scales: Sequence[str],
    protocol: Protocol = OWN,
) -> list[Pair]:
    """Find the originals of every set and their partners at every scale.

    A set is a folder of images, or of one folder `x4` (`X4`) for each scale. The originals are
    the files `NAME_HR` or `NAME_GT` if there are any, else all images. The partner of `NAME_HR`
    or `NAME` is `NAME`, `NAME_LR`, `NAMEx4`, `NAME_x4`, `NAME_LRx4`, `NAME_LR_x4` or
    `NAME_LRBI_x4`, with any suffix and case. A scale without a folder beside folders of other
    scales has no partners: its originals are downscaled.

    Args:
        hr: Folders of originals, one for each set.
        lr: Folders of their partners in the same order; empty to downscale the originals.
        scales: Scales as they were typed.
        protocol: Filter that downscales, and the rule for halves.

    Returns:
        The pairs, ordered by set, scale and name.

    Raises:
        UsageError: If there is not one folder of partners for each set, or two sets have
            one name.
        PictureError: If a folder is missing or empty, two originals have one name, or a
            partner is missing or not the only one.
    """
    if lr and len(lr) != len(hr):
        raise UsageError(
            f"lr must have one folder for each of hr, got {len(lr)} for {len(hr)}", option="lr"
        )
    names = [_set_name(folder) for folder in hr]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"names of sets must differ, got {name} twice; rename a folder")
    pairs = []
    for (name, folder, partners), scale in itertools.product(
        itertools.zip_longest(names, hr, lr), scales
    ):
        small = None
        if partners is not None and not _lacks_scale(partners, scale):
            small = _pictures(_at_scale(partners, scale))
        for original in _originals(_at_scale(folder, scale)):
            partner = None if small is None else _partner(original, small, partners, scale)
            made = protocol.downsample, protocol.rounding
            pairs.append(Pair(name, _name_of(original), scale, original, partner, *made))
    return pairs


def _set_name(folder: Path) -> str:
    """Return the name of a folder, or of the first above it that names a set."""
    folder = folder.absolute()
    while PART.fullmatch(folder.name) and folder.parent.name:
        folder = folder.parent
    return folder.name


def _at_scale(folder: Path, scale: str) -> Path:
    for name in (f"x{scale}", f"X{scale}"):
        if (folder / name).is_dir():
            return folder / name
    return folder


def _lacks_scale(folder: Path, scale: str) -> bool:
    """Return whether a folder has folders for other scales and none for this one."""
    if _at_scale(folder, scale) != folder:
        return False
    try:
        return any(
            SCALE_FOLDER.fullmatch(entry.name) and entry.is_dir() for entry in folder.iterdir()
        )
    except OSError:  # the reader of the folder says why
        return False


def _pictures(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise PictureError(f"folder of images {folder} does not exist") from error
    except NotADirectoryError as error:
        raise PictureError(f"folder of images {folder} is not a folder") from error
    except OSError as error:
        raise PictureError(f"folder {folder} cannot be read: {error.strerror}") from error
    images = [
        path
        for path in entries
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    if not images:
        raise PictureError(f"folder {folder} contains no image")
    return images


def _originals(folder: Path) -> list[Path]:
    images = _pictures(folder)
    marked = [path for path in images if ORIGINAL.search(path.stem)] or images
    for path, after in itertools.pairwise(sorted(marked, key=_name_of)):
        if _name_of(path) == _name_of(after):
            raise PictureError(f"{path} and {after} must have different names")
    return marked


def _name_of(original: Path) -> str:
    return ORIGINAL.sub("", original.stem)


def _partner(original: Path, small: Sequence[Path], folder: Path, scale: str) -> Path:
    """Return the partner of an original."""
    name = _name_of(original)
    bases = {original.stem, name}
    ends = ["", "_LR", f"x{scale}", f"_x{scale}"]
    ends += [f"_LRx{scale}", f"_LR_x{scale}", f"_LRBI_x{scale}"]
    names = {f"{base}{end}".lower() for base in bases for end in ends}
    partners = [path for path in small if path.stem.lower() in names and path != original]
    if not partners:
        such = f"such as {name}_LR or {name}x{scale}"
        raise PictureError(f"{original} has no partner at ×{scale} in {folder}, {such}")
    if len(partners) > 1:
        got = ", ".join(str(path) for path in partners)
        raise PictureError(f"{original} must have one partner at ×{scale}, got {got}")
    return partners[0]


def read_opaque(path: Path) -> Picture:
    """Read an image of eight bits without transparency.

    Args:
        path: File.

    Returns:
        RGB image, (H, W, 3) uint8.

    Raises:
        PictureError: If it cannot be read, is deeper or has a transparent pixel.
    """
    picture = read_picture(path)
    if picture.depth != 8:
        raise PictureError(
            f"{path} must have 8 bits per channel, got {depth_text(picture.depth)}; convert it"
        )
    if picture.alpha is not None and picture.alpha.min() < WHITE:
        raise PictureError(f"{path} must be opaque, got a transparent pixel")
    return np.asarray(picture.rgb, np.uint8)
