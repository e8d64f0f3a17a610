"""Find the smallest halo that keeps the seams between tiles invisible."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.parity.compare import GraphRunner
from flowsr_runtime import ParityError, Window
from flowsr_runtime.geometry import Halo
from flowsr_runtime.tiling.graph_inputs import graph_inputs
from flowsr_runtime.tiling.tiles import Tile, pieces_of

__all__ = [
    "Seam",
    "default_halo",
    "seam_steps",
]

# A quarter of an eight-bit step, measured without blending, disappears in rounding.
SEAM_GOAL = 0.25
SEAM_LIMIT = 1.0
EIGHT_BIT = 255


@dataclass(frozen=True)
class Seam:
    """A halo and the largest difference between its tiles and the whole image.

    Attributes:
        halo: The halo.
        steps: Difference in eight-bit steps, not rounded, without blending.
    """

    halo: Halo
    steps: float


def default_halo(deployment: Deployment, session: GraphRunner) -> Seam:
    """Find the smallest halo with a seam below a quarter of an eight-bit step.

    Args:
        deployment: The model.
        session: Runs the graph for tiles.

    Returns:
        The halo and its seam.

    Raises:
        ParityError: If even the whole receptive field leaves a visible seam.
    """
    cases = deployment.seam_cases()
    whole = [_upscaled(session, deployment, case, None) for case in cases]
    for halo in deployment.halos():
        steps = max(
            seam_steps(_upscaled(session, deployment, case, halo), output)
            for case, output in zip(cases, whole, strict=True)
        )
        if steps <= SEAM_GOAL:
            break
    if not steps <= SEAM_LIMIT:
        raise ParityError(f"tiles must equal the whole image within 1 step, got {steps:.3g}")
    return Seam(halo, steps)


def seam_steps(tiled: NDArray[np.float32], whole: NDArray[np.float32]) -> float:
    """Return the largest difference of two outputs in [0, 1], in eight-bit steps."""
    return float(np.abs(np.clip(tiled, 0, 1) - np.clip(whole, 0, 1)).max()) * EIGHT_BIT


def _upscaled(
    session: GraphRunner, deployment: Deployment, case: Case, halo: Halo | None
) -> NDArray[np.float32]:
    """Upscale a photograph whole, or in tiles that meet in the middle without blending."""
    rgb = sample_pictures(case)

    def run(pixels: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
        return session.run(
            graph_inputs(
                pixels,
                window,
                latents=deployment.latents,
                geometry=deployment.takes_geometry(None),
            )
        )

    if halo is None:
        return run(rgb, Window.whole(case.lr, case.size))
    output = np.empty((1, 3, *case.size), np.float32)
    rows, columns = (
        pieces_of(lr, out, count=min(2, -(-out // halo.align)), halo=halo, fade=0)
        for lr, out in zip(case.lr, case.size, strict=True)
    )
    for row, column in product(rows, columns):
        tile = Tile(row, column)
        source, core = tile.source, tile.core
        part = run(rgb[:, :, source[0], source[1]], tile.window)[:, :, core[0], core[1]]
        output[:, :, row.begin : row.end, column.begin : column.end] = part
    return output
