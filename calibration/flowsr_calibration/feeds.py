"""Inputs of a bundle's graph for crops, and its output in units of full range."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_calibration.crops import Crop
from flowsr_runtime import Window, output_size
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.tiling.noise import latent as draw_latent

__all__ = ["TEMPERATURE", "feeds_of", "full_range", "scales_for"]

TEMPERATURE: Final = 0.5  # of the latents of a graph without a learned prior
EIGHT_BIT: Final = 255
ANY_SCALE: Final = (Fraction(2), Fraction(3), Fraction(4))


def scales_for(manifest: Manifest) -> tuple[Fraction, ...]:
    """Return the scales that a graph is calibrated at: its own, or two, three and four."""
    return ANY_SCALE if manifest.scale is None else (manifest.scale,)


def feeds_of(manifest: Manifest, crop: Crop) -> dict[str, NDArray[Any]]:
    """Return the graph's inputs for a crop, its sides multiples of the manifest's.

    Args:
        manifest: The bundle's.
        crop: What to enlarge.

    Returns:
        `input` (1, 3, n, n), `geometry` (10,) int64, latents (1, D, rows, columns).
    """
    picture = crop.low.transpose(2, 0, 1)[None]
    feeds: dict[str, NDArray[Any]] = {"input": np.ascontiguousarray(picture)}
    if manifest.io == "float32":
        feeds["input"] = np.asarray(feeds["input"] / np.float32(EIGHT_BIT), np.float32)
    lr = (crop.low.shape[0], crop.low.shape[1])
    size = (output_size(lr[0], crop.scale), output_size(lr[1], crop.scale))
    if manifest.geometry:
        feeds["geometry"] = Window.whole(lr, size).geometry()
    for stream, latent in enumerate(manifest.latents):
        rows, columns = latent.grid(size)
        feeds[latent.name] = draw_latent(
            crop.index,
            top=0,
            left=0,
            rows=rows,
            columns=columns,
            channels=latent.channels,
            temperature=TEMPERATURE,
            stream=stream,
        )
    return feeds


def full_range(output: NDArray[Any]) -> NDArray[np.float32]:
    """Return a graph's pictures in units of full range, whatever their type."""
    if output.dtype == np.uint8:
        return np.asarray(output / np.float32(EIGHT_BIT), np.float32)
    return np.asarray(output, np.float32)
