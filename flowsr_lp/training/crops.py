"""Training crops: pairs of low- and high-resolution pictures at random scales."""

__all__ = ["Crops", "load_pictures"]

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowsr_runtime.errors import PictureError, UsageError

logger = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# What Pillow raises for files that are damaged or of another kind.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def load_pictures(folder: Path, smallest: int) -> list[NDArray[np.uint8]]:
    """Read every picture of a folder into memory.

    Args:
        folder: Folder of PNG, JPEG, WebP or BMP files; sub-folders are not read.
        smallest: Side in pixels below which a picture is of no use.

    Returns:
        RGB pictures, each (H, W, 3) uint8, sorted by file name.

    Raises:
        PictureError: If the folder is missing, a file is damaged, or none is large enough.
    """
    if not folder.is_dir():
        raise PictureError(f"folder of pictures does not exist: {folder}")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    pictures = [picture for picture in map(_read, paths) if min(picture.shape[:2]) >= smallest]
    if not pictures:
        raise PictureError(f"no picture of at least {smallest} pixels a side in {folder}")
    if len(pictures) < len(paths):
        logger.warning(
            "left out %d of %d pictures: smaller than %d pixels a side",
            len(paths) - len(pictures),
            len(paths),
            smallest,
        )
    return pictures


class Crops:
    """Random crops, flips and scales; one scale per batch, each batch from its own seed."""

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        batch: int,
        lr_size: int,
        scales: tuple[float, float] = (1.0, 4.0),
        seed: int = 0,
    ) -> None:
        """Prepare to cut `batch` crops of `lr_size` low-resolution pixels a side.

        Args:
            pictures: RGB pictures, each (H, W, 3) uint8, H and W >= lr_size · scales[1].
            batch: Crops per batch, B.
            lr_size: Side of the low-resolution crop, in pixels.
            scales: Range that the scale is drawn from, uniformly.
            seed: With the step, determines a batch: a resumed run sees the same ones.

        Raises:
            UsageError: If a number makes no sense, or a picture is smaller than a crop.
        """
        if batch < 1 or lr_size < 1:
            raise UsageError(f"batch and lr_size must be at least 1, got {batch} and {lr_size}")
        if not 1 <= scales[0] <= scales[1]:
            raise UsageError(f"scales must be a range from 1 up, got {scales[0]},{scales[1]}")
        largest = round(lr_size * scales[1])
        if min(min(picture.shape[:2]) for picture in pictures) < largest:
            raise UsageError(f"pictures must be at least {largest} pixels a side")
        self.pictures = pictures
        self.batch = batch
        self.lr_size = lr_size
        self.scales = scales
        self.seed = seed

    def batch_at(self, step: int) -> tuple[Tensor, Tensor]:
        """Cut the batch of one step.

        Args:
            step: Step number, from 0.

        Returns:
            Low resolution (B, 3, n, n) and high resolution (B, 3, N, N), RGB in [0, 1].
        """
        rng = np.random.default_rng((self.seed, step))
        hr_size = round(self.lr_size * rng.uniform(*self.scales))
        low, high = [], []
        for _ in range(self.batch):
            crop = _random_crop(
                self.pictures[int(rng.integers(len(self.pictures)))], hr_size, rng
            )
            # Pillow's bicubic is Keys' kernel at a = -0.5 with antialiasing, as MATLAB's is.
            small = Image.fromarray(crop).resize((self.lr_size,) * 2, Image.Resampling.BICUBIC)
            low.append(np.asarray(small))
            high.append(crop)
        return _to_tensor(low), _to_tensor(high)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except UNREADABLE as error:
        raise PictureError(f"cannot read picture {path}: {error}") from error


def _random_crop(
    picture: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    top, left = (rng.integers(side - size + 1) for side in picture.shape[:2])
    crop = picture[top : top + size, left : left + size]
    if rng.random() < 0.5:
        crop = crop[::-1]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < 0.5:
        crop = crop.transpose(1, 0, 2)
    return np.ascontiguousarray(crop)


def _to_tensor(pictures: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
