"""Calibration pictures: low-resolution crops where there is texture, one picture in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime import output_size, read_picture
from flowsr_runtime.errors import FlowsrError, PictureError, UsageError
from flowsr_runtime.pictures.depth import to_depth
from flowsr_runtime.pictures.files import SUFFIXES

__all__ = ["LEAST_PICTURES", "Crop", "CropPlan", "Pictures", "find_pictures"]

LEAST_PICTURES: Final = 4
"""Fewer say nothing of pictures that were not seen."""

HELD_OUT: Final = 0.2  # of the pictures
MOST_HELD_OUT: Final = 12
CANDIDATES: Final = 16  # places of a picture of which one is taken, by its texture
LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
FLAT: Final = 0.5  # mean difference of neighbours, eight-bit steps: noise of a flat surface


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder.

    Attributes:
        calibration: Those that ranges come from.
        held_out: Those that the result is judged by; the others never see them.
        digests: SHA-256 of each file.
        skipped: What could not be read and why, one line each.
    """

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]
    digests: dict[Path, str]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Crop:
    """One sample.

    Attributes:
        index: Its number.
        picture: File that it was cut from.
        scale: Output pixels per low-resolution pixel.
        low: What the model gets, (n, n, 3) uint8.
        high: What it should give, (N, N, 3) uint8.
        texture: Mean difference of neighbouring pixels of `low`, eight-bit steps.
    """

    index: int
    picture: Path
    scale: Fraction
    low: NDArray[np.uint8]
    high: NDArray[np.uint8]
    texture: float


@dataclass(frozen=True)
class CropPlan:
    """Which crops to cut; the same plan always gives the same ones.

    Attributes:
        samples: How many.
        side: Low-resolution pixels a side.
        scales: Taken in turn.
        seed: Of every draw.
    """

    samples: int
    side: int
    scales: tuple[Fraction, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.side < 1 or not self.scales:
            raise UsageError(
                "samples and side must be at least 1 and scales not empty, got "
                f"{self.samples}, "
                f"{self.side} and {len(self.scales)}"
            )

    @property
    def largest(self) -> int:
        """Pixels a side of the largest crop of a picture."""
        return max(output_size(self.side, scale) for scale in self.scales)

    def crops(self, pictures: Sequence[Path], begin: int = 0) -> Iterator[Crop]:
        """Cut the crops one after another; a picture is in memory while its own are cut.

        Args:
            pictures: Files that can be read.
            begin: Number of the first one, to go on where a run ended.

        Yields:
            The crops.

        Raises:
            PictureError: If a file cannot be read any more.
        """
        loaded: tuple[Path, NDArray[np.uint8]] | None = None
        for index in range(begin, self.samples):
            path = pictures[index * len(pictures) // self.samples]
            if loaded is None or loaded[0] != path:
                loaded = (path, _read(path))
            yield self._crop(index, path, loaded[1])

    def _crop(self, index: int, path: Path, rgb: NDArray[np.uint8]) -> Crop:
        rng = np.random.default_rng((self.seed, index))
        scale = self.scales[index % len(self.scales)]
        side = output_size(self.side, scale)
        corners = [
            tuple(int(rng.integers(n - side + 1)) for n in rgb.shape[:2])
            for _ in range(CANDIDATES)
        ]
        lows = [_smaller(rgb[y : y + side, x : x + side], self.side) for y, x in corners]
        textures = np.array([_texture(low) for low in lows])
        weights = textures if textures.sum() > 0 else np.ones(CANDIDATES)
        taken = int(rng.choice(CANDIDATES, p=weights / weights.sum()))
        y, x = corners[taken]
        high = np.ascontiguousarray(rgb[y : y + side, x : x + side])
        return Crop(index, path, scale, lows[taken], high, float(textures[taken]))


def find_pictures(folder: Path, plan: CropPlan) -> Pictures:
    """Look at every picture of a folder and part them.

    Args:
        folder: Picture files of any kind that is read; sub-folders are not.
        plan: The crops that each must have room for.

    Returns:
        The pictures, parted by the plan's seed; what cannot be read is left out and named.

    Raises:
        PictureError: If the folder is missing, too few can be used, or none has texture.
    """
    if not folder.is_dir():
        raise PictureError(f"folder of pictures does not exist: {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise PictureError(f"no picture in {folder}; pictures end in {', '.join(SUFFIXES)}")
    skipped, digests, flat = [], {}, []
    for path in paths:
        try:
            rgb = _read(path)
        except FlowsrError as error:
            skipped.append(str(error))
            continue
        if min(rgb.shape[:2]) < plan.largest:
            size = f"{rgb.shape[1]}x{rgb.shape[0]}"
            skipped.append(f"{path} is {size}, smaller than {plan.largest} pixels a side")
        elif _texture(rgb) < FLAT:
            flat.append(path)
            skipped.append(f"{path} is flat: it has no texture")
        else:
            digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _parted(folder, digests, tuple(skipped), plan.seed)


def _parted(
    folder: Path, digests: dict[Path, str], skipped: tuple[str, ...], seed: int
) -> Pictures:
    """Hold some pictures out, chosen by the seed."""
    usable = list(digests)
    if len(usable) < LEAST_PICTURES:
        first = f"; {skipped[0]}" if skipped else ""
        more = f"; {len(skipped) - 1} more" if len(skipped) > 1 else ""
        raise PictureError(
            f"calibration needs at least {LEAST_PICTURES} pictures, {folder} has {len(usable)} "
            f"that can be used{first}{more}"
        )
    order = np.random.default_rng(seed).permutation(len(usable))
    count = min(max(1, round(HELD_OUT * len(usable))), MOST_HELD_OUT)
    held = {int(i) for i in order[:count]}
    return Pictures(
        calibration=tuple(path for i, path in enumerate(usable) if i not in held),
        held_out=tuple(path for i, path in enumerate(usable) if i in held),
        digests=digests,
        skipped=skipped,
    )


def _read(path: Path) -> NDArray[np.uint8]:
    """Read a picture of any depth as eight bits."""
    return np.asarray(to_depth(read_picture(path).rgb, 8), np.uint8)


def _smaller(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Shrink by Keys' kernel at a = -0.5 with antialiasing, as the networks were trained."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def _texture(rgb: NDArray[np.uint8]) -> float:
    """Mean difference of neighbouring pixels' luma, eight-bit steps."""
    luma = rgb.astype(np.float32) @ LUMA
    if min(luma.shape) < 2:
        return 0.0
    return (
        float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()) / 2
    )
