"""Training crops: pairs of low- and high-resolution images at random scales."""

__all__ = ["Arrays", "Augmentation", "Batch", "Crops", "batches", "shrunk"]

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowsr_lp.training.pictures import PictureFolder
from flowsr_lp.training.synthetic import synthetic_image
from flowsr_runtime.errors import FlowsrError, UsageError

Batch = tuple[Tensor, ...]
Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Augmentation:
    """Changes to the crops beyond flips.

    Attributes:
        synthetic: Share of the crops that are drawn, in [0, 1]; see `synthetic_image`.
        fonts: TrueType fonts for drawn text; Pillow's own font when empty.
        gray: Share of the photographic crops made gray, in [0, 1].
        color: Share of the photographic crops with a changed contrast and color, in [0, 1].

    Raises:
        UsageError: If a share is outside [0, 1].
    """

    synthetic: float = 0.0
    fonts: tuple[Path, ...] = ()
    gray: float = 0.0
    color: float = 0.0

    def __post_init__(self) -> None:
        """Check the shares."""
        for share in (self.synthetic, self.gray, self.color):
            if not 0 <= share <= 1:
                raise UsageError(f"shares of crops must be from 0 to 1, got {share}")


class Crops:
    """Random crops, flips and scales; one scale per batch, each batch from its own seed."""

    def __init__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        batch: int,
        lr_size: int,
        scales: tuple[float, float] = (1.0, 4.0),
        seed: int = 0,
        augmentation: Augmentation = Augmentation(),
        rank: int = 0,
    ) -> None:
        """Prepare to cut `batch` crops of `lr_size` low-resolution pixels a side.

        Args:
            pictures: RGB pictures, each (H, W, 3) uint8, H and W >= lr_size · scales[1].
            batch: Crops per batch, B.
            lr_size: Side of the low-resolution crop, in pixels.
            scales: Range that the scale is drawn from, uniformly.
            seed: With the step, determines a batch: a resumed run sees the same ones.
            augmentation: Changes to the crops beyond flips.
            rank: Number of the process among those of a run; each cuts batches of its own.

        Raises:
            UsageError: If a number makes no sense, or a picture is smaller than a crop.
        """
        if batch < 1 or lr_size < 1:
            raise UsageError(f"batch and lr_size must be at least 1, got {batch} and {lr_size}")
        if not 1 <= scales[0] <= scales[1]:
            raise UsageError(f"scales must be a range from 1 up, got {scales[0]},{scales[1]}")
        largest = round(lr_size * scales[1])
        if _shortest_side(pictures) < largest:
            raise UsageError(f"pictures must be at least {largest} pixels a side")
        self.pictures = pictures
        self.batch = batch
        self.lr_size = lr_size
        self.scales = scales
        self.seed = seed
        self.augmentation = augmentation
        self.rank = rank

    def batch_at(self, step: int) -> Batch:
        """Cut the batch of one step.

        Args:
            step: Step number, from 0.

        Returns:
            Low resolution (B, 3, n, n) and high resolution (B, 3, N, N), RGB in [0, 1].
        """
        return _tensors(self.arrays_at(step))

    def arrays_at(self, step: int) -> Arrays:
        """Cut the batch of one step as arrays.

        Returns:
            Low resolution (B, n, n, 3) and high resolution (B, N, N, 3), RGB uint8.
        """
        rng = self._generator(step)
        hr_size = round(self.lr_size * rng.uniform(*self.scales))
        low, high = [], []
        for _ in range(self.batch):
            crop = self._crop(hr_size, rng)
            low.append(shrunk(crop, self.lr_size))
            high.append(crop)
        return np.stack(low), np.stack(high)

    def _generator(self, step: int) -> np.random.Generator:
        """Return the random numbers of one step in this process."""
        own = (self.rank,) if self.rank else ()
        return np.random.default_rng((self.seed, step, *own))

    def _crop(self, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        """Cut or draw one high-resolution crop."""
        augmentation = self.augmentation
        if augmentation.synthetic and rng.random() < augmentation.synthetic:
            return synthetic_image(size, rng, augmentation.fonts)
        crop = _random_crop(self.pictures[int(rng.integers(len(self.pictures)))], size, rng)
        recolored = augmentation.gray or augmentation.color
        return _recolor(crop, augmentation, rng) if recolored else crop


def batches(crops: Crops, steps: range, workers: int = 0) -> Iterator[Batch]:
    """Cut the batches of some steps, in order and the same for any number of workers.

    Args:
        crops: Source of the batches.
        steps: Step numbers.
        workers: Processes that decode and cut ahead; 0 does it here.

    Yields:
        Each step's batch, as `Crops.batch_at` returns it.

    Raises:
        PictureError: If a picture is damaged.
    """
    if not workers or not steps:
        for step in steps:
            yield crops.batch_at(step)
        return
    crops = copy.copy(crops)
    if isinstance(crops.pictures, PictureFolder):
        crops.pictures = crops.pictures.hand_over(workers)
    loader = DataLoader(
        _Steps(crops),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_unchanged,
        multiprocessing_context="spawn",  # forks of a process with threads can deadlock
        generator=torch.Generator(),  # the default one is the noise's: leave it alone
    )
    for arrays in loader:
        if isinstance(arrays, FlowsrError):
            raise arrays
        yield _tensors(arrays)


class _Steps(Dataset[Arrays | FlowsrError]):
    """Batches by step for PyTorch's worker processes; an error is handed over as a value."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops

    def __getitem__(self, step: int) -> Arrays | FlowsrError:
        try:
            return self.crops.arrays_at(step)
        except FlowsrError as error:
            return error


def _unchanged(arrays: Any) -> Any:
    """Hand arrays over through a pipe: tensors would take shared memory, often 64 MB."""
    return arrays


def _recolor(
    crop: NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Make a crop gray, or change its contrast, brightness and color balance."""
    if rng.random() < augmentation.gray:
        luma = crop @ np.array([0.299, 0.587, 0.114])
        return np.repeat(np.rint(luma).astype(np.uint8)[..., None], 3, axis=-1)
    if rng.random() < augmentation.color:
        gain = rng.uniform(0.6, 1.6) * rng.uniform(0.9, 1.1, 3)
        values = (crop - 127.5) * gain + 127.5 + rng.uniform(-40, 40)
        return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return crop


def _shortest_side(pictures: Sequence[NDArray[np.uint8]]) -> int:
    if isinstance(pictures, PictureFolder):
        return pictures.smallest
    return min(int(min(picture.shape[:2])) for picture in pictures)


def shrunk(crop: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Reduce a crop (N, N, 3) to `side` pixels a side."""
    # Pillow's bicubic is Keys' kernel at a = -0.5 with antialiasing, as MATLAB's is.
    return np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.BICUBIC))


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


def _tensors(arrays: Arrays) -> Batch:
    """Make tensors of pictures (B, 3, h, w) in [0, 1]; other arrays are kept as they are."""
    tensors = map(torch.from_numpy, arrays)
    return tuple(x.permute(0, 3, 1, 2).float() / 255 if x.ndim == 4 else x for x in tensors)
