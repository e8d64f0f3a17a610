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
    strength: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[Any]]:
    """Make the inputs of a graph.

    Args:
        rgb: Low-resolution pixels of the window in the graph's own type, (B, 3, h, w).
        window: Position of the window in the whole image.
        latents: Noise inputs of the graph.
        geometry: Whether the graph has the input `geometry`.
        seed: Random seed of the noise, the same for every image of the batch.
        temperature: Standard deviation of the noise.
        strength: Factors of the temperature over the whole image, (rows, columns) of any size;
            a cell of noise takes the factor at its center. None for 1.

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
        if strength is not None:
            noise *= _read(strength, window, latent.patch, grid)
        inputs[latent.name] = noise if len(rgb) == 1 else np.repeat(noise, len(rgb), axis=0)
    return inputs


def _read(
    strength: NDArray[np.float32], window: Window, patch: int, grid: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the factors at the centers of a window's cells, as (rows, columns)."""
    axes = []
    for extent, cells, pixels in zip(
        (window.rows, window.columns), grid, strength.shape, strict=True
    ):
        cell = np.arange(cells, dtype=np.int64) + extent.out_begin // patch
        # The last cells may reach beyond the image.
        center = (2 * cell + 1) * patch * pixels // (2 * extent.target)
        axes.append(np.minimum(center, pixels - 1))
    return strength[np.ix_(*axes)]
