"""Test cases for an exported graph: sizes, crops of the shipped photographs, and latents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime import output_size
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import to_depth

__all__ = ["TEMPERATURE", "Case", "Scale", "cases_of", "sample_pictures"]

PICTURES = Path(__file__).parent / "pictures"
CROP_ORIGIN = 64  # row and column of the photographs at which every crop starts
TEMPERATURE = 0.5  # of the latents in comparisons of models without a learned prior
Scale = Fraction | tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison.

    Attributes:
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        batch: Images at once.
    """

    lr: tuple[int, int]
    size: tuple[int, int]
    batch: int = 1

    def __str__(self) -> str:
        """Name of the case in messages and tables."""
        return f"{size_text(self.lr)} to {size_text(self.size)}, batch {self.batch}"


def cases_of(sizes: Iterable[tuple[int, int]], scales: Iterable[Scale]) -> list[Case]:
    """Combine low-resolution sizes with scales; a pair is (row, column)."""
    pairs = [scale if isinstance(scale, tuple) else (scale, scale) for scale in scales]
    return [
        Case((h, w), (output_size(h, row), output_size(w, column)))
        for row, column in pairs
        for h, w in sizes
    ]


def sample_pictures(case: Case) -> NDArray[np.float32]:
    """Return crops of the shipped photographs, (B, 3, h, w) in [0, 1], repeated at edges."""
    paths = sorted(PICTURES.glob("*.png"))
    crops = []
    for i in range(case.batch):
        with Image.open(paths[i % len(paths)]) as image:
            photo = np.asarray(image.convert("RGB"))
        rows, cols = (
            np.arange(CROP_ORIGIN, CROP_ORIGIN + n) % side
            for n, side in zip(case.lr, photo.shape[:2], strict=True)
        )
        crops.append(photo[np.ix_(rows, cols)])
    rgb = np.stack(crops).transpose(0, 3, 1, 2)
    return to_depth(rgb, "float")
