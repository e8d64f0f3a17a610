"""Calibration set: textured low-resolution crops, and a graph's inputs for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime import Window, output_size, read_picture
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import FlowsrError, PictureError, UsageError
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import to_depth
from flowsr_runtime.pictures.files import SUFFIXES
from flowsr_runtime.pictures.pixels import full_range
from flowsr_runtime.tiling.graph_inputs import graph_inputs

__all__ = [
    "MIN_PICTURES",
    "Crop",
    "CropPlan",
    "Pictures",
    "feeds_of",
    "find_pictures",
    "scales_for",
]

MIN_PICTURES: Final = 4
"""Fewer images do not generalize to unseen ones."""

HELD_OUT: Final = 0.2  # share of the images
MAX_HELD_OUT: Final = 12
CANDIDATES: Final = 16  # places in an image of which one is drawn by its texture
TEMPERATURE: Final = 0.5  # of the latents without a learned prior
ANY_SCALE: Final = (Fraction(2), Fraction(3), Fraction(4))
LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
FLAT: Final = 0.5  # mean difference of neighbors in a flat surface with noise, eight-bit steps


@dataclass(frozen=True)
class Pictures:
    """The images of a folder.

    Attributes:
        calibration: Files that determine the ranges.
        held_out: Files that the result is judged by, not used for calibration.
        digests: SHA-256 of each file.
        skipped: One line for each file that cannot be used, with the reason.
    """

    calibration: tuple[Path, ...]
    held_out: tuple[Path, ...]
    digests: dict[Path, str]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Crop:
    """One sample.

    Attributes:
        index: Number of the crop.
        picture: Image file.
        scale: Output pixels per low-resolution pixel.
        low: Input of the model, (n, n, 3) uint8.
        high: Original, (N, N, 3) uint8.
        texture: Mean difference of neighboring pixels of `low`, eight-bit steps.
    """

    index: int
    picture: Path
    scale: Fraction
    low: NDArray[np.uint8]
    high: NDArray[np.uint8]
    texture: float


@dataclass(frozen=True)
class CropPlan:
    """A reproducible plan of crops.

    Attributes:
        samples: Number of crops.
        side: Low-resolution pixels a side.
        scales: Scales, used in turn.
        seed: Random seed.
    """

    samples: int
    side: int
    scales: tuple[Fraction, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.side < 1 or not self.scales:
            raise UsageError(
                "samples and side must be at least 1 and scales not empty, got "
                f"{self.samples}, {self.side} and {len(self.scales)}"
            )

    @property
    def largest(self) -> int:
        """Side of the largest crop of an image, pixels."""
        return max(output_size(self.side, scale) for scale in self.scales)

    def crops(self, pictures: Sequence[Path], begin: int = 0) -> Iterator[Crop]:
        """Cut the crops one after another, with one image in memory at a time.

        Args:
            pictures: Readable image files.
            begin: Number of the first crop, to continue an interrupted run.

        Yields:
            The crops.

        Raises:
            PictureError: If a file can no longer be read.
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
        chosen = int(rng.choice(CANDIDATES, p=weights / weights.sum()))
        y, x = corners[chosen]
        high = np.ascontiguousarray(rgb[y : y + side, x : x + side])
        return Crop(index, path, scale, lows[chosen], high, float(textures[chosen]))


def find_pictures(folder: Path, plan: CropPlan) -> Pictures:
    """Read every image of a folder and split them into calibration and held-out images.

    Args:
        folder: Folder of image files; its sub-folders are ignored.
        plan: Plan whose crops must fit in each image.

    Returns:
        The images, split by the plan's seed; unusable files are listed as skipped.

    Raises:
        PictureError: If the folder is missing, too few can be used, or none has texture.
    """
    if not folder.is_dir():
        rule = "is not a folder" if folder.exists() else "does not exist"
        raise PictureError(f"folder of images {folder} {rule}")
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not paths:
        raise PictureError(f"folder {folder} must contain images ({', '.join(SUFFIXES)})")
    skipped, digests = [], {}
    for path in paths:
        try:
            rgb = _read(path)
        except FlowsrError as error:
            skipped.append(str(error))
            continue
        if min(rgb.shape[:2]) < plan.largest:
            size = size_text((rgb.shape[0], rgb.shape[1]))
            skipped.append(f"{path} is {size}, smaller than {plan.largest} pixels a side")
        elif _texture(rgb) < FLAT:
            skipped.append(f"{path} has no texture")
        else:
            digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return _split(folder, digests, tuple(skipped), plan.seed)


def scales_for(manifest: Manifest) -> tuple[Fraction, ...]:
    """Return the scales for calibration: the graph's own, or 2, 3 and 4."""
    return ANY_SCALE if manifest.scale is None else (manifest.scale,)


def feeds_of(manifest: Manifest, crop: Crop) -> dict[str, NDArray[Any]]:
    """Return the graph's inputs for a crop, whose sides must be multiples of the manifest's.

    Args:
        manifest: Manifest of the bundle.
        crop: Crop to upscale.

    Returns:
        `input` (1, 3, n, n), `geometry` (10,) int64, latents (1, D, rows, columns).
    """
    picture = np.ascontiguousarray(crop.low.transpose(2, 0, 1)[None])
    lr = (crop.low.shape[0], crop.low.shape[1])
    size = (output_size(lr[0], crop.scale), output_size(lr[1], crop.scale))
    return graph_inputs(
        full_range(picture) if manifest.io == "float32" else picture,
        Window.whole(lr, size),
        latents=manifest.latents,
        geometry=manifest.geometry,
        seed=crop.index,
        temperature=TEMPERATURE,
    )


def _split(
    folder: Path, digests: dict[Path, str], skipped: tuple[str, ...], seed: int
) -> Pictures:
    """Hold some images out, chosen by the seed."""
    usable = list(digests)
    if len(usable) < MIN_PICTURES:
        first = f"; {skipped[0]}" if skipped else ""
        more = f"; {len(skipped) - 1} more" if len(skipped) > 1 else ""
        raise PictureError(
            f"calibration needs at least {MIN_PICTURES} usable images, got {len(usable)} in "
            f"{folder}{first}{more}"
        )
    order = np.random.default_rng(seed).permutation(len(usable))
    count = min(max(1, round(HELD_OUT * len(usable))), MAX_HELD_OUT)
    held = {int(i) for i in order[:count]}
    return Pictures(
        calibration=tuple(path for i, path in enumerate(usable) if i not in held),
        held_out=tuple(path for i, path in enumerate(usable) if i in held),
        digests=digests,
        skipped=skipped,
    )


def _read(path: Path) -> NDArray[np.uint8]:
    """Read an image of any depth as eight bits."""
    return np.asarray(to_depth(read_picture(path).rgb, 8), np.uint8)


def _smaller(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Downscale with Keys' kernel, a = -0.5, and antialiasing, as for training."""
    image = Image.fromarray(np.ascontiguousarray(rgb))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def _texture(rgb: NDArray[np.uint8]) -> float:
    """Return the mean difference of neighboring pixels' luma, eight-bit steps."""
    luma = rgb.astype(np.float32) @ LUMA
    if min(luma.shape) < 2:
        return 0.0
    return float(np.mean([np.abs(np.diff(luma, axis=axis)).mean() for axis in (0, 1)]))
