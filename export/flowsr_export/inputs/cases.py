"""Test cases for an exported graph: sizes, crops of the shipped photographs, and latents."""

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
from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import to_depth
from flowsr_runtime.tiling.noise import latent as draw_latent

__all__ = ["TEMPERATURE", "Case", "Scale", "cases_of", "latents_for", "sample_pictures"]

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
    cases = []
    for scale in scales:
        rows, cols = scale if isinstance(scale, tuple) else (scale, scale)
        for h, w in sizes:
            cases.append(Case((h, w), (output_size(h, rows), output_size(w, cols))))
    return cases


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


def latents_for(
    latents: Sequence[Latent],
    size: tuple[int, int],
    batch: int,
    seed: int = 0,
    temperature: float = TEMPERATURE,
) -> dict[str, NDArray[np.float32]]:
    """Draw the latents of a whole output, the same for every image.

    Args:
        latents: Latent inputs of the graph.
        size: Output size (H, W).
        batch: Images at once.
        seed: Random seed for the noise.
        temperature: Standard deviation of the noise.

    Returns:
        Latents by name, (B, D, rows, columns).
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
