"""Receptive field of each part of a network: how far an output sees."""

from flowsr_lp.linf.encoder import EDSR, RDN, RRDB, SwinIR
from flowsr_lp.linf.prior import EdsrLatent, UNet
from flowsr_lp.linf.swinir import WINDOW

__all__ = ["DENSE_BLOCK_RADIUS", "encoder_radius", "prior_radius", "unet_radius"]

DENSE_BLOCK_RADIUS = 5  # five 3x3 convolutions


def encoder_radius(encoder: object) -> int:
    """Low-resolution pixels that a feature sees to each side."""
    if isinstance(encoder, EDSR):
        return 2 + 2 * (len(encoder.body) - 1)
    if isinstance(encoder, RRDB):
        return 2 + 3 * DENSE_BLOCK_RADIUS * len(encoder.RRDB_trunk)
    if isinstance(encoder, SwinIR):
        return _attention_radius(encoder)
    assert isinstance(encoder, RDN)
    return 3 + sum(len(block.convs) for block in encoder.RDBs)  # type: ignore[arg-type, misc]


def _attention_radius(encoder: SwinIR) -> int:
    """Pixels that a feature of SwinIR sees to each side, at most.

    A block of attention takes what is seen to the edges of its windows, every second one to
    those that are shifted by half a window; a convolution takes it one pixel on.
    """
    farthest = 0
    for pixel in range(WINDOW):
        low = high = pixel
        low, high = low - 2, high + 2  # the two convolutions behind the groups, backwards
        for depth in reversed(encoder.depths):
            low, high = low - 1, high + 1
            for block in reversed(range(depth)):
                shift = block % 2 * (WINDOW // 2)
                low = (low - shift) // WINDOW * WINDOW + shift
                high = (high - shift) // WINDOW * WINDOW + shift + WINDOW - 1
        farthest = max(farthest, pixel - low + 1, high + 1 - pixel)  # and the first convolution
    return farthest


def prior_radius(prior: UNet | EdsrLatent) -> int:
    """Patches that an output patch sees to each side."""
    if isinstance(prior, EdsrLatent):
        return DENSE_BLOCK_RADIUS + 2 * len(prior.body)
    return DENSE_BLOCK_RADIUS + unet_radius(prior.depth)


def unet_radius(depth: int) -> int:
    """Cells that a U-Net of `depth` levels sees to each side."""
    radius = 2
    for level in range(depth):
        below, here = 2 << level, 1 << level
        # two convolutions below, two here, and the doubling: it reads two neighbours, and
        # aligned corners move them by up to one more
        radius += 2 * below + 2 * here + 2 * below
    return radius
