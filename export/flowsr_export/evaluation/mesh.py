"""Measure the mesh that a model's patches leave; docs/measuring/evaluate.md defines it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.metrics import luma
from flowsr_runtime.errors import ShapeError
from flowsr_runtime.geometry import size_text

__all__ = ["MESH_SHAVE", "mesh_pattern", "mesh_ratio", "smallest_side"]

Picture = NDArray[np.uint8]
Detail = NDArray[np.float64]

MESH_SHAVE = 12
"""Pixels left out on every side: bicubic's own treatment of the border."""

PERIODS = 16  # periods between the borders that a spectrum needs, beside it 4 frequencies


def smallest_side(patch: int) -> int:
    """Return the pixels a side that an image needs.

    Args:
        patch: Patch side p in output pixels.
    """
    return 2 * MESH_SHAVE + PERIODS * patch


def mesh_ratio(output: Picture, bicubic: Picture, patch: int) -> float:
    """Return the detail's power at the period of the patch, relative to that beside it.

    Args:
        output: Result of a model, (H, W, 3) uint8.
        bicubic: The same input upscaled by bicubic interpolation, (H, W, 3) uint8.
        patch: Patch side p in output pixels, at least 2.

    Returns:
        Power at 1 / p cycles a pixel, averaged over the rows of the luma of the difference,
        over the median of the frequencies within 1/16 of a cycle but the two nearest; the
        larger of this and the same for columns. 1 if the images are equal.

    Raises:
        ShapeError: If the sizes differ, the image is too small or the patch is one pixel.
    """
    detail = _detail(output, bicubic, patch)
    return max(_ratio(detail, patch), _ratio(detail.T, patch))


def mesh_pattern(output: Picture, bicubic: Picture, patch: int) -> float:
    """Return the mean pattern of the detail over the patch, peak to peak.

    Args:
        output: As for `mesh_ratio`.
        bicubic: As for `mesh_ratio`.
        patch: As for `mesh_ratio`.

    Returns:
        Largest minus smallest of the p x p means over all patches of the luma of the
        difference, in eight-bit steps.

    Raises:
        ShapeError: As `mesh_ratio`.
    """
    detail = _detail(output, bicubic, patch)
    rows, columns = (side // patch for side in detail.shape)
    cut = detail[: rows * patch, : columns * patch]
    return float(np.ptp(cut.reshape(rows, patch, columns, patch).mean((0, 2))))


def _detail(output: Picture, bicubic: Picture, patch: int) -> Detail:
    """Luma of the difference without the borders, in units of an 8-bit step of luma."""
    if output.shape != bicubic.shape:
        raise ShapeError(f"images must have one size, got {output.shape} and {bicubic.shape}")
    if patch < 2:
        raise ShapeError(f"patch must have at least 2 pixels a side for a mesh, got {patch}")
    size, least = (output.shape[0], output.shape[1]), smallest_side(patch)
    if min(size) < least:
        raise ShapeError(
            f"image must have at least {least} pixels a side, got {size_text(size)}"
        )
    inside = slice(MESH_SHAVE, -MESH_SHAVE)
    detail: Detail = (luma(output) - luma(bicubic))[inside, inside]
    return detail


def _ratio(detail: Detail, patch: int) -> float:
    periods = detail.shape[1] // patch
    rows = detail[:, : periods * patch]
    spectrum = np.fft.rfft(rows - rows.mean(1, keepdims=True), axis=1)
    power = (np.abs(spectrum) ** 2).mean(0)
    reach = max(4, periods * patch // 16)
    beside = np.concatenate(
        (
            power[max(periods - reach, 1) : periods - 2],
            power[periods + 3 : periods + reach + 1],
        )
    )
    median = float(np.median(beside))
    return float(power[periods]) / median if median else 1.0
