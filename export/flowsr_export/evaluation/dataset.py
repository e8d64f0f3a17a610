"""Which pictures are evaluated: originals, their small partners, and the published crops."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_runtime import output_size, read_picture
from flowsr_runtime.errors import PictureError, UsageError
from flowsr_runtime.geometry import exact_scale
from flowsr_runtime.pictures.files import SUFFIXES

__all__ = ["Pair", "find_pairs"]

Picture = NDArray[np.uint8]

ORIGINAL = re.compile(r"[_-](HR|GT)$", re.IGNORECASE)
SCALE_FOLDER = re.compile(r"x\d+(\.\d+)?$", re.IGNORECASE)
OPAQUE = 255


@dataclass(frozen=True)
class Pair:
    """One original at one scale.

    Attributes:
        dataset: Name of its set.
        name: Its file's, without the suffix, `_HR` and `_GT`.
        scale: Output pixels per input pixel, as it was typed.
        hr: The original's file.
        lr: Its small partner's, None to shrink the original.
    """

    dataset: str
    name: str
    scale: str
    hr: Path
    lr: Path | None

    def __str__(self) -> str:
        """Name the pair as messages do."""
        return f"{self.dataset} {self.name} ×{self.scale}"

    def read(self) -> tuple[Picture, Picture]:
        """Read the original and the input.

        The rule of LINF's and LIIF's evaluation: the input has floor(side / scale) pixels a
        side, and the original is cut, at the bottom and on the right, to what they enlarge to.

        Returns:
            The original as cut, (H, W, 3) uint8, and the input, (h, w, 3) uint8: the
            partner, or the original shrunk by MATLAB's bicubic.

        Raises:
            PictureError: If a file cannot be read, is not opaque or not of eight bits, the
                original is smaller than the scale, or the partner is not of that size.
        """
        original, scale = _opaque(self.hr), exact_scale(self.scale)
        height, width = original.shape[:2]
        low_size = math.floor(height / scale), math.floor(width / scale)
        if min(low_size) < 1:
            raise PictureError(f"{self.hr}, {width}x{height}, is too small for ×{self.scale}")
        rows, columns = (output_size(side, scale) for side in low_size)
        original = np.ascontiguousarray(original[:rows, :columns])
        if self.lr is None:
            return original, matlab_bicubic(original, low_size)
        low = _opaque(self.lr)
        if low.shape[:2] != low_size:
            raise PictureError(
                f"{self.lr} is {low.shape[1]}x{low.shape[0]}; {self.hr}, {width}x{height}, "
                f"at ×{self.scale} needs {low_size[1]}x{low_size[0]}"
            )
        return original, low


def find_pairs(hr: Sequence[Path], lr: Sequence[Path], scales: Sequence[str]) -> list[Pair]:
    """Find the originals of every set and their partners at every scale.

    A set is a folder of pictures, or one with a folder `x4` (`X4`) for each scale. Of a folder
    that holds files called `NAME_HR` or `NAME_GT` these are the originals, else all its
    pictures. The partner of `NAME_HR` or `NAME` is `NAME`, `NAME_LR`, `NAMEx4`, `NAME_x4`,
    `NAME_LRx4`, `NAME_LR_x4` or `NAME_LRBI_x4`, whatever its suffix and case.

    Args:
        hr: Folders of originals, one for each set.
        lr: Folders of their partners in the same order; none to shrink the originals.
        scales: Output pixels per input pixel, as they were typed.

    Returns:
        The pairs, by set, scale and name.

    Raises:
        UsageError: If there is not one folder of partners for each set, or two sets have
            one name.
        PictureError: If a folder is missing or empty, two originals have one name, or a
            partner is missing or not the only one.
    """
    if lr and len(lr) != len(hr):
        raise UsageError(f"give one --lr for each --hr, got {len(lr)} for {len(hr)}")
    names = [_set_name(folder) for folder in hr]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two sets are called {name}; rename a folder")
    pairs = []
    for (name, folder, partners), scale in itertools.product(
        itertools.zip_longest(names, hr, lr), scales
    ):
        small = None if partners is None else _pictures(_at_scale(partners, scale))
        for original in _originals(_at_scale(folder, scale)):
            partner = None if small is None else _partner(original, small, partners, scale)
            pairs.append(Pair(name, _name_of(original), scale, original, partner))
    return pairs


def _set_name(folder: Path) -> str:
    """Return a folder's name, or its parent's where it is called after a scale."""
    folder = folder.absolute()
    return folder.parent.name if SCALE_FOLDER.fullmatch(folder.name) else folder.name


def _at_scale(folder: Path, scale: str) -> Path:
    for name in (f"x{scale}", f"X{scale}"):
        if (folder / name).is_dir():
            return folder / name
    return folder


def _pictures(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise PictureError(f"folder {folder} cannot be read: {error.strerror}") from error
    found = [path for path in entries if path.suffix.lower() in SUFFIXES]
    if not found:
        raise PictureError(f"folder {folder} holds no picture")
    return found


def _originals(folder: Path) -> list[Path]:
    found = _pictures(folder)
    marked = [path for path in found if ORIGINAL.search(path.stem)] or found
    for path, after in itertools.pairwise(sorted(marked, key=_name_of)):
        if _name_of(path) == _name_of(after):
            raise PictureError(f"{path} and {after} are two originals of one name")
    return marked


def _name_of(original: Path) -> str:
    return ORIGINAL.sub("", original.stem)


def _partner(original: Path, small: Sequence[Path], folder: Path, scale: str) -> Path:
    """Return the one picture that is the original's partner."""
    name = _name_of(original)
    bases = {original.stem, name}
    ends = ["", "_LR", f"x{scale}", f"_x{scale}"]
    ends += [f"_LRx{scale}", f"_LR_x{scale}", f"_LRBI_x{scale}"]
    wanted = {f"{base}{end}".lower() for base in bases for end in ends}
    found = [path for path in small if path.stem.lower() in wanted and path != original]
    if not found:
        raise PictureError(
            f"{original} has no partner at ×{scale} in {folder}; it would be called "
            f"{name}_LR or {name}x{scale}"
        )
    if len(found) > 1:
        raise PictureError(
            f"{original} has several partners at ×{scale}: "
            f"{', '.join(str(path) for path in found)}"
        )
    return found[0]


def _opaque(path: Path) -> Picture:
    picture = read_picture(path)
    if picture.depth != 8:
        raise PictureError(f"{path} has more than 8 bits per channel; convert it to 8 bits")
    if picture.alpha is not None and picture.alpha.min() < OPAQUE:
        raise PictureError(f"{path} is not opaque; it cannot be compared")
    return np.asarray(picture.rgb, np.uint8)
