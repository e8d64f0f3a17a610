"""What an exported graph is compared on: sizes, and crops of the shipped photographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_runtime import output_size
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.tiling.noise import latent as draw_latent

__all__ = ["TEMPERATURE", "Case", "Scale", "cases_of", "latents_for", "sample_pictures"]

PICTURES = Path(__file__).parent / "pictures"
CROP_ORIGIN = 64  # row and column of the photographs at which every crop begins
EIGHT_BIT = 255
TEMPERATURE = 0.5  # of the latents that a model without a learned prior is compared with
Scale = Fraction | tuple[Fraction, Fraction]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        batch: Pictures at once.
    """

    lr: tuple[int, int]
    size: tuple[int, int]
    batch: int = 1

    def __str__(self) -> str:
        """Name the case as messages and tables do."""
        (h, w), (out_h, out_w) = self.lr, self.size
        return f"{w}x{h} to {out_w}x{out_h}, batch {self.batch}"


def cases_of(sizes: Iterable[tuple[int, int]], scales: Iterable[Scale]) -> list[Case]:
    """Combine low-resolution sizes with scales; a pair is (row, column)."""
    cases = []
    for scale in scales:
        rows, cols = scale if isinstance(scale, tuple) else (scale, scale)
        for h, w in sizes:
            cases.append(Case((h, w), (output_size(h, rows), output_size(w, cols))))
    return cases


def sample_pictures(case: Case) -> NDArray[np.float32]:
    """Crops of the shipped photographs, (B, 3, h, w) in [0, 1]; they repeat beyond an edge."""
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
    return np.asarray(rgb / EIGHT_BIT, np.float32)


def latents_for(
    latents: Sequence[Latent],
    size: tuple[int, int],
    batch: int,
    seed: int = 0,
    temperature: float = TEMPERATURE,
) -> dict[str, NDArray[np.float32]]:
    """Draw the latents of a whole output of `size` (H, W), the same for every picture.

    Args:
        latents: Inputs of noise.
        size: Output size (H, W).
        batch: Pictures at once.
        seed: Seed of the noise.
        temperature: Its standard deviation.

    Returns:
        By name, (B, D, rows, columns).
    """
    drawn = {}
    for stream, latent in enumerate(latents):
        rows, columns = latent.grid(size)
        noise = draw_latent(
            seed,
            top=0,
            left=0,
            rows=rows,
            columns=columns,
            channels=latent.channels,
            temperature=temperature,
            stream=stream,
        )
        drawn[latent.name] = np.repeat(noise, batch, axis=0)
    return drawn
