"""Inputs of a bundle's graph for crops."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_calibration.crops import Crop
from flowsr_runtime import Window, output_size
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.pictures.pixels import full_range
from flowsr_runtime.tiling.noise import latent as draw_latent

__all__ = ["TEMPERATURE", "feeds_of", "scales_for"]

TEMPERATURE: Final = 0.5  # of the latents without a learned prior
ANY_SCALE: Final = (Fraction(2), Fraction(3), Fraction(4))


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
    picture = crop.low.transpose(2, 0, 1)[None]
    feeds: dict[str, NDArray[Any]] = {"input": np.ascontiguousarray(picture)}
    if manifest.io == "float32":
        feeds["input"] = full_range(feeds["input"])
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
