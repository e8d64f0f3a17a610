"""Image quality metrics as papers define them; docs/measuring/evaluate.md has the sources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.imresize import WHITE, matlab_bicubic, matlab_bicubic_float
from flowsr_export.evaluation.protocol import SsimKind
from flowsr_runtime.errors import ShapeError
from flowsr_runtime.geometry import size_text

__all__ = [
    "METRICS",
    "SSIM_WINDOW",
    "Metric",
    "decibels",
    "diversity",
    "diversity_score",
    "eight_bit",
    "lr_psnr",
    "luma",
    "psnr",
    "psnr_y",
    "ssim",
    "ssim_y",
]

Picture = NDArray[np.uint8]
Levels = NDArray[Any]  # eight bits, or float in [0, 255]

PEAK = float(WHITE)
# ITU-R BT.601 studio swing: 8-bit RGB to Y in [16, 235], as MATLAB's rgb2ycbcr, not rounded.
LUMA_OFFSET = 16.0
LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966]) / PEAK

SSIM_WINDOW = 11
"""Side of SSIM's window, which is also the smallest side of an image, pixels."""

UNIFORM_WINDOW = 7  # of scikit-image's structural_similarity as it is called without options

# Wang et al., "Image quality assessment" (IEEE TIP 13, 2004), section III.C.
SSIM_SIGMA = 1.5
SSIM_C1, SSIM_C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


@dataclass(frozen=True)
class Metric:
    """Description of a metric in tables.

    Attributes:
        meaning: Definition and unit.
        digits: Decimals in tables.
        better: "higher", "lower" or "neither".
    """

    meaning: str
    digits: int
    better: str


METRICS = {
    "psnr": Metric("dB, RGB", 2, "higher"),
    "psnr-y": Metric("dB, luma", 2, "higher"),
    "ssim": Metric("mean of R, G and B", 4, "higher"),
    "ssim-y": Metric("luma", 4, "higher"),
    "lpips": Metric("LPIPS v0.1 with AlexNet, whole images", 3, "lower"),
    "dists": Metric("DISTS with VGG16, whole images", 3, "lower"),
    "lr-psnr": Metric("dB, RGB, output downscaled by bicubic against the input", 2, "higher"),
    "mesh": Metric(
        "detail's power at the patch's period, relative to that beside it", 2, "lower"
    ),
    "mesh-pattern": Metric(
        "eight-bit steps, mean detail over the patch, peak to peak", 3, "lower"
    ),
    "out-of-range": Metric("%, values outside [-0.1, 1.1] before they are clamped", 4, "lower"),
    "diversity": Metric("eight-bit steps, standard deviation over the samples", 3, "neither"),
    "diversity-score": Metric("%, LPIPS reduced by the best sample per pixel", 2, "higher"),
}
"""Every metric by name, in the order of tables."""


def luma(rgb: Levels) -> NDArray[np.float64]:
    """Return the luma, Y of Y'CbCr in [16, 235], (H, W), of levels in [0, 255], (H, W, 3)."""
    return LUMA_OFFSET + rgb.astype(np.float64) @ LUMA_WEIGHTS


def psnr(a: Levels, b: Levels, shave: int) -> float:
    """Return the PSNR of two RGB images.

    Args:
        a: RGB image, (H, W, 3) uint8, or float in [0, 255].
        b: RGB image of the same size.
        shave: Pixels to shave on every side.

    Returns:
        Decibels relative to 255 over all values; infinite for equal images.

    Raises:
        ShapeError: If the sizes differ or nothing is left between the borders.
    """
    return decibels(*_inner(a, b, shave, least=1))


def psnr_y(a: Levels, b: Levels, shave: int) -> float:
    """Return the PSNR of the luma of two images; see `psnr`."""
    a, b = _inner(a, b, shave, least=1)
    return decibels(luma(a), luma(b))


def ssim(a: Levels, b: Levels, shave: int, kind: SsimKind = "gaussian") -> float:
    """Return the mean over R, G and B of the SSIM of two images.

    Wang et al. 2004 as in their MATLAB code: a Gaussian window of 11 pixels, sigma 1.5,
    at positions inside the image; K1 = 0.01, K2 = 0.03, L = 255. The kind "uniform" is what
    scikit-image computes without options, and SRFlow's evaluation with it: a flat window of 7
    pixels and the covariance of a sample.

    Args:
        a: RGB image, (H, W, 3) uint8, or float in [0, 255].
        b: RGB image of the same size.
        shave: Pixels to shave on every side.
        kind: Window.

    Returns:
        At most 1, for equal images.

    Raises:
        ShapeError: If the sizes differ, or less than the window is left between the borders.
    """
    a, b = _inner(a, b, shave, least=SSIM_WINDOW)
    channels = zip(np.moveaxis(a, 2, 0), np.moveaxis(b, 2, 0), strict=True)
    return float(
        np.mean([_ssim(x.astype(np.float64), y.astype(np.float64), kind) for x, y in channels])
    )


def ssim_y(a: Levels, b: Levels, shave: int, kind: SsimKind = "gaussian") -> float:
    """Return the SSIM of the luma of two images; see `ssim`."""
    a, b = _inner(a, b, shave, least=SSIM_WINDOW)
    return _ssim(luma(a), luma(b), kind)


def lr_psnr(output: Levels, low: Picture, shave: int = 0, *, rounded: bool = True) -> float:
    """Return the consistency of an output with its input.

    Args:
        output: RGB image, (H, W, 3) uint8, or float in [0, 255].
        low: The input, (h, w, 3) uint8.
        shave: Low-resolution pixels to shave on every side.
        rounded: Round the output to eight bits before it is reduced and after.

    Returns:
        PSNR in dB between `low` and the output downscaled by MATLAB's bicubic to (h, w).
    """
    size = low.shape[0], low.shape[1]
    if rounded:
        return psnr(matlab_bicubic(eight_bit(output), size), low, shave)
    return psnr(matlab_bicubic_float(output, size), low, shave)


def eight_bit(levels: Levels) -> Picture:
    """Round levels in [0, 255] to eight bits."""
    if levels.dtype == np.uint8:
        return levels
    return np.floor(np.clip(levels, 0, WHITE) + 0.5).astype(np.uint8)


def diversity(samples: Sequence[Picture]) -> float:
    """Return the diversity of samples of one image.

    Args:
        samples: Two or more images, each (H, W, 3) uint8.

    Returns:
        Standard deviation over the samples (unbiased, as in LINF's evaluation) in
        eight-bit steps, mean over pixels and channels.

    Raises:
        ShapeError: If there is one sample, or their sizes differ.
    """
    _check_samples([sample.shape for sample in samples])
    mean = np.zeros(samples[0].shape)
    for sample in samples:
        mean += sample / len(samples)
    squares = np.zeros(samples[0].shape)
    for sample in samples:
        squares += (sample - mean) ** 2
    return float(np.sqrt(squares / (len(samples) - 1)).mean())


def diversity_score(distances: Sequence[NDArray[np.float32]]) -> float:
    """Return the diversity score of the NTIRE 2021 challenge on learning the SR space.

    Args:
        distances: LPIPS map to the original for each of two or more samples, (H, W).

    Returns:
        Reduction of the best sample's mean distance, in percent, if every pixel came from its
        best sample: 0 for equal samples; NaN if the best distance is 0.

    Raises:
        ShapeError: If there is one sample, or their sizes differ.
    """
    _check_samples([distance.shape for distance in distances])
    best = min(float(distance.mean(dtype=np.float64)) for distance in distances)
    local = float(np.minimum.reduce(list(distances)).mean(dtype=np.float64))
    return math.nan if best == 0 else 100 * (best - local) / best


def _inner(a: Levels, b: Levels, shave: int, least: int) -> tuple[Levels, Levels]:
    """Return two images without their borders."""
    if a.shape != b.shape:
        raise ShapeError(f"images must have one size, got {a.shape} and {b.shape}")
    height, width = a.shape[0] - 2 * shave, a.shape[1] - 2 * shave
    if min(height, width) < least:
        raise ShapeError(
            f"image must have at least {least} pixels a side between borders of {shave}, got "
            f"{size_text((a.shape[0], a.shape[1]))}"
        )
    inside = (slice(shave, shave + height), slice(shave, shave + width))
    return a[inside], b[inside]


def decibels(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    """Return the PSNR of two arrays with levels in [0, 255], dB; infinite if they are equal."""
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(PEAK**2 / error)


def _ssim(x: NDArray[np.float64], y: NDArray[np.float64], kind: SsimKind) -> float:
    """SSIM of two planes (H, W) in [0, 255]."""
    weights = np.full(UNIFORM_WINDOW, 1 / UNIFORM_WINDOW)
    unbiased = UNIFORM_WINDOW**2 / (UNIFORM_WINDOW**2 - 1)
    if kind == "gaussian":
        weights, unbiased = _gaussian(), 1.0
    mean_x, mean_y = _windowed(x, weights), _windowed(y, weights)
    square_x = unbiased * (_windowed(x * x, weights) - mean_x**2)
    square_y = unbiased * (_windowed(y * y, weights) - mean_y**2)
    product = unbiased * (_windowed(x * y, weights) - mean_x * mean_y)
    above = (2 * mean_x * mean_y + SSIM_C1) * (2 * product + SSIM_C2)
    below = (mean_x**2 + mean_y**2 + SSIM_C1) * (square_x + square_y + SSIM_C2)
    return float(np.mean(above / below))


def _gaussian() -> NDArray[np.float64]:
    reach = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-(reach**2) / (2 * SSIM_SIGMA**2))
    return np.asarray(weights / weights.sum())


def _windowed(plane: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means over every whole window; the window is separable."""
    rows, columns = (side - len(weights) + 1 for side in plane.shape)
    down = sum(w * plane[i : i + rows] for i, w in enumerate(weights))
    across = sum(w * down[:, i : i + columns] for i, w in enumerate(weights))
    return np.asarray(across)


def _check_samples(shapes: Sequence[tuple[int, ...]]) -> None:
    if len(shapes) < 2 or len(set(shapes)) != 1:
        raise ShapeError(f"samples must be at least two of one size, got {shapes}")
