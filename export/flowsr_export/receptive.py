"""How far a pixel of the output sees, and the halo that keeps a tile's seam invisible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.parity import Case, Run, photographs
from flowsr_lp import LinfLP
from flowsr_lp.encoder import EDSR, RDN, RRDB
from flowsr_lp.prior import EdsrLatent, UNet
from flowsr_runtime import ParityError, Window
from flowsr_runtime.geometry import Extent, Halo

__all__ = ["Seam", "default_halo", "exact_halo", "seam_steps"]

# Shares of the whole receptive field that are tried, the cheapest first.
SHARES = (0.25, 0.375, 0.5, 0.75, 1.0)
# A quarter of an eight-bit step, measured without blending: rounding then hides the seam.
SEAM_GOAL = 0.25
SEAM_LIMIT = 1.0
SEAM_LR = 96  # low-resolution pixels a side of the measured photograph
SEAM_SIZES = (2, 4)
LR_ALIGN = 3  # stride of the prior's convolution on the picture
DENSE_BLOCK_RADIUS = 5  # five 3x3 convolutions
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


def exact_halo(network: LinfLP) -> Halo:
    """The whole receptive field of a network: with it tiles equal the whole picture.

    Args:
        network: The model.

    Returns:
        Halo in patches (the prior's reach) and low-resolution pixels (the encoder's reach).
    """
    patch = network.linf.patch_size
    # one pixel for the feature convolution, one for the low pass of the residual
    pixels = _encoder_radius(network.linf.encoder) + 2
    if network.prior is None:
        return Halo(patch, patch, LR_ALIGN, 0, pixels)
    # The picture's branch: a dense block and an interpolation at a third of the resolution.
    pixels = max(pixels, LR_ALIGN * (DENSE_BLOCK_RADIUS + 2) + 1)
    reduction = network.prior.reduction
    return Halo(patch, patch * reduction, LR_ALIGN, _prior_radius(network.prior), pixels)


def default_halo(network: LinfLP, session: Run) -> Seam:
    """Find the smallest halo whose seam stays below a quarter of an eight-bit step.

    Args:
        network: The model.
        session: Runs its any-scale graph.

    Returns:
        The halo and its seam.

    Raises:
        ParityError: If even the whole receptive field leaves a seam that can be seen.
    """
    exact = exact_halo(network)
    whole = {scale: _run(session, network, scale, exact, whole=True) for scale in SEAM_SIZES}
    for share in SHARES:
        halo = _part(exact, share)
        steps = max(
            seam_steps(_run(session, network, scale, halo, whole=False), whole[scale])
            for scale in SEAM_SIZES
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
    session: Run, network: LinfLP, scale: int, halo: Halo, whole: bool
) -> NDArray[np.float32]:
    """Enlarge a photograph at once, or in four tiles that meet in the middle, unblended."""
    lr, out = (SEAM_LR, SEAM_LR), (SEAM_LR * scale, SEAM_LR * scale)
    rgb = photographs(Case(lr, out))
    rows, cols = network.latent_size(out)
    noise = np.zeros((1, network.linf.width, rows, cols), np.float32)
    middle = out[0] // 2 // halo.align * halo.align
    cuts = [(0, out[0])] if whole else [(0, middle), (middle, out[0])]
    output = np.zeros((1, 3, *out), np.float32)
    for top, bottom in cuts:
        for left, right in cuts:
            y = Extent.around(top, bottom, lr[0], out[0], halo)
            x = Extent.around(left, right, lr[1], out[1], halo)
            feeds: dict[str, NDArray[Any]] = {
                "input": rgb[:, :, y.lr_begin : y.lr_end, x.lr_begin : x.lr_end],
                "geometry": Window(y, x).geometry(),
            }
            if network.prior is None:
                feeds["latent"] = _cut(_cut(noise, 2, y, halo.patch), 3, x, halo.patch)
            tile = session.run(feeds)
            output[:, :, top:bottom, left:right] = tile[
                :, :, top - y.out_begin : bottom - y.out_begin, left - x.out_begin :
            ][..., : right - left]
    return output


def _cut(
    latent: NDArray[np.float32], axis: int, extent: Extent, patch: int
) -> NDArray[np.float32]:
    first, last = extent.out_begin // patch, -(-extent.out_end // patch)
    return latent.take(range(first, last), axis)


def _part(exact: Halo, share: float) -> Halo:
    patches, pixels = (min(n, max(1, round(n * share))) for n in (exact.patches, exact.pixels))
    return Halo(exact.patch, exact.align, exact.lr_align, patches, pixels)


def _encoder_radius(encoder: object) -> int:
    if isinstance(encoder, EDSR):
        return 2 + 2 * (len(encoder.body) - 1)
    if isinstance(encoder, RRDB):
        return 2 + 3 * DENSE_BLOCK_RADIUS * len(encoder.RRDB_trunk)
    assert isinstance(encoder, RDN)
    return 3 + sum(len(block.convs) for block in encoder.RDBs)  # type: ignore[arg-type, misc]


def _prior_radius(prior: UNet | EdsrLatent) -> int:
    """Patches that an output patch sees to each side."""
    if isinstance(prior, EdsrLatent):
        return DENSE_BLOCK_RADIUS + 2 * len(prior.body)
    radius = DENSE_BLOCK_RADIUS + 2
    for level in range(prior.depth):
        below, here = 2 << level, 1 << level
        # two convolutions below, two here, and the doubling: it reads two neighbours, and
        # aligned corners move them by up to one more
        radius += 2 * below + 2 * here + 2 * below
    return radius
