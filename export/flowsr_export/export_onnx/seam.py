"""How far a pixel of the output sees, and the halo that keeps a tile's seam invisible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.parity.compare import GraphRunner
from flowsr_runtime import ParityError, Window
from flowsr_runtime.geometry import Extent, Halo

__all__ = [
    "Seam",
    "default_halo",
    "seam_steps",
]

# A quarter of an eight-bit step, measured without blending: rounding then hides the seam.
SEAM_GOAL = 0.25
SEAM_LIMIT = 1.0
EIGHT_BIT = 255


@dataclass(frozen=True)
class Seam:
    """A halo and the largest difference it leaves between tiles and the whole picture.

    Attributes:
        halo: The halo.
        steps: Difference in eight-bit steps, not rounded, without blending.
    """

    halo: Halo
    steps: float


def default_halo(deployment: Deployment, session: GraphRunner) -> Seam:
    """Find the smallest halo whose seam stays below a quarter of an eight-bit step.

    Args:
        deployment: The model.
        session: Runs its graph for tiles.

    Returns:
        The halo and its seam.

    Raises:
        ParityError: If even the whole receptive field leaves a seam that can be seen.
    """
    cases = deployment.seam_cases()
    whole = [_run(session, deployment, case, None) for case in cases]
    for halo in deployment.halos():
        steps = max(
            seam_steps(_run(session, deployment, case, halo), output)
            for case, output in zip(cases, whole, strict=True)
        )
        if steps <= SEAM_GOAL:
            break
    if not steps <= SEAM_LIMIT:
        raise ParityError(f"tiles must be the whole picture within 1 step, got {steps:.3g}")
    return Seam(halo, steps)


def seam_steps(tiled: NDArray[np.float32], whole: NDArray[np.float32]) -> float:
    """Largest difference of two outputs in [0, 1], in eight-bit steps."""
    return float(np.abs(np.clip(tiled, 0, 1) - np.clip(whole, 0, 1)).max()) * EIGHT_BIT


def _run(
    session: GraphRunner, deployment: Deployment, case: Case, halo: Halo | None
) -> NDArray[np.float32]:
    """Enlarge a photograph at once, or in tiles that meet in the middle, unblended."""
    rgb = sample_pictures(case)
    geometry = deployment.takes_geometry(None)
    if halo is None:
        return session.run(_feeds(deployment, rgb, Window.whole(case.lr, case.size), geometry))
    output = np.zeros((1, 3, *case.size), np.float32)
    cuts = []
    for side in case.size:
        middle = side // 2 // halo.align * halo.align
        cuts.append([(0, middle), (middle, side)] if 0 < middle < side else [(0, side)])
    for top, bottom in cuts[0]:
        for left, right in cuts[1]:
            y = Extent.around(top, bottom, case.lr[0], case.size[0], halo)
            x = Extent.around(left, right, case.lr[1], case.size[1], halo)
            tile = session.run(_feeds(deployment, rgb, Window(y, x), geometry))
            output[:, :, top:bottom, left:right] = tile[
                :, :, top - y.out_begin : bottom - y.out_begin, left - x.out_begin :
            ][..., : right - left]
    return output


def _feeds(
    deployment: Deployment, rgb: NDArray[np.float32], window: Window, geometry: bool
) -> dict[str, NDArray[Any]]:
    """Inputs for a window of a picture (1, 3, h, w); every latent is zero."""
    y, x = window.rows, window.columns
    feeds: dict[str, NDArray[Any]] = {
        "input": rgb[:, :, y.lr_begin : y.lr_end, x.lr_begin : x.lr_end]
    }
    if geometry:
        feeds["geometry"] = window.geometry()
    for latent in deployment.latents:
        grid = latent.grid((y.out_size, x.out_size))
        feeds[latent.name] = np.zeros((1, latent.channels, *grid), np.float32)
    return feeds
