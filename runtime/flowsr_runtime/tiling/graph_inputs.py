"""The inputs of a deployed graph for one window of an image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.geometry import Window
from flowsr_runtime.tiling.noise import latent as draw_latent

__all__ = ["graph_inputs"]


def graph_inputs(
    rgb: NDArray[Any],
    window: Window,
    *,
    latents: Sequence[Latent],
    geometry: bool,
    seed: int = 0,
    temperature: float = 0.0,
) -> dict[str, NDArray[Any]]:
    """Make the inputs of a graph.

    Args:
        rgb: Low-resolution pixels of the window in the graph's own type, (B, 3, h, w).
        window: Position of the window in the whole image.
        latents: Noise inputs of the graph.
        geometry: Whether the graph has the input `geometry`.
        seed: Random seed of the noise, the same for every image of the batch.
        temperature: Standard deviation of the noise.

    Returns:
        `input`, `geometry` (10,) int64 and latents (B, D, rows, columns) by name.
    """
    inputs: dict[str, NDArray[Any]] = {"input": rgb}
    if geometry:
        inputs["geometry"] = window.geometry()
    rows, columns = window.rows, window.columns
    for stream, latent in enumerate(latents):
        grid = latent.grid((rows.out_size, columns.out_size))
        noise = draw_latent(
            seed,
            top=rows.out_begin // latent.patch,
            left=columns.out_begin // latent.patch,
            rows=grid[0],
            columns=grid[1],
            channels=latent.channels,
            temperature=temperature,
            stream=stream,
        )
        inputs[latent.name] = noise if len(rgb) == 1 else np.repeat(noise, len(rgb), axis=0)
    return inputs
