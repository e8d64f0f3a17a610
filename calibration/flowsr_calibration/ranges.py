"""Choose the range of a tensor that eight-bit codes span, from its statistics."""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from flowsr_calibration.codes import INT8, EightBitFormat
from flowsr_calibration.statistics import BINS, Histogram
from flowsr_runtime.errors import UsageError

__all__ = ["INT8_MOST", "METHODS", "Method", "activation_range", "weight_scales"]

Method = Literal["percentile", "entropy", "minmax", "mse"]
METHODS: Final = get_args(Method)

INT8_MOST: Final = 127
"""Largest code; symmetric, so that zero is a code and both signs have the same range."""

PERCENTILE: Final = 99.99  # of magnitudes; the rest is clipped
CANDIDATES: Final = 64  # ranges that "mse" and "entropy" try
MIN_SHARE: Final = 0.2  # smallest range that they try, as a share of the largest magnitude
TINY: Final = 1e-6  # range of a tensor of zeros


def activation_range(
    histogram: Histogram, method: Method, codes: EightBitFormat = INT8
) -> float:
    """Choose the magnitude at which a tensor is clipped.

    Args:
        histogram: Histogram of magnitudes.
        method: "minmax" clips nothing and "percentile" one value in ten thousand; "mse"
            minimizes the squared error of rounding and clipping, "entropy" the
            Kullback-Leibler divergence of the codes from the values.
        codes: Eight-bit type, whose rounding "mse" uses; "entropy" treats both as int8.

    Returns:
        The magnitude, above zero.

    Raises:
        UsageError: If the method is unknown.
    """
    if method not in METHODS:
        raise UsageError(
            f"method must be one of {', '.join(METHODS)}, got {method!r}", option="method"
        )
    if histogram.largest <= TINY:
        return TINY
    if method == "minmax":
        return histogram.largest
    if method == "percentile":
        return _percentile(histogram)
    score = _rounding_error if method == "mse" else _divergence
    shares = np.linspace(MIN_SHARE, 1.0, CANDIDATES)
    scores = [score(histogram, float(share) * histogram.largest, codes) for share in shares]
    return float(shares[int(np.argmin(scores))]) * histogram.largest


def weight_scales(
    weight: NDArray[np.float32], most: float = INT8_MOST, *, per_tensor: bool = False
) -> NDArray[np.float32]:
    """Choose the step sizes of a weight.

    A CPU without VNNI adds two neighboring products in 16 bits, which saturate at 255 times
    128.5 (the other operand is unsigned). Therefore two neighbors of one sign sum to at most
    127 codes, and the same file gives the same sums on every CPU.

    Args:
        weight: (O, I, k, k) or (O, I).
        most: Largest code.
        per_tensor: Use one step for the whole weight instead of one for each output.

    Returns:
        Step sizes, (O,), all equal with `per_tensor`.
    """
    rows = weight if weight.ndim == 2 else weight.transpose(0, 2, 3, 1)
    reach = _neighbors(np.ascontiguousarray(rows, np.float64), weight.shape[1] % 2 == 0)
    if per_tensor:
        reach = np.full_like(reach, reach.max())
    return np.asarray(np.maximum(reach, TINY) / most, np.float32)


def _neighbors(rows: NDArray[np.float64], is_paired: bool) -> NDArray[np.float64]:
    """Return the largest magnitude of each row's weights and sums of neighbors, (O,)."""
    flat = rows.reshape(len(rows), -1)
    largest: NDArray[np.float64] = np.abs(flat).max(axis=1)
    if not is_paired:  # the library's padding determines neighbors: assume any two
        if flat.shape[1] < 2:
            return largest
        ends = np.sort(flat, axis=1)
        sums = np.maximum(ends[:, -2:].sum(1), -ends[:, :2].sum(1))
        return np.asarray(np.maximum(largest, sums))
    pairs = flat.reshape(len(flat), -1, 2).sum(axis=2)
    return np.asarray(np.maximum(largest, np.abs(pairs).max(axis=1)))


def _percentile(histogram: Histogram) -> float:
    above = np.cumsum(histogram.counts)
    index = int(np.searchsorted(above, above[-1] * PERCENTILE / 100))
    return min((index + 1) * histogram.limit / BINS, histogram.largest)


def _rounding_error(histogram: Histogram, reach: float, codes: EightBitFormat) -> float:
    """Return the squared error of rounding within `reach` and of clipping beyond it."""
    centers = (np.arange(BINS) + 0.5) * histogram.limit / BINS
    step = reach / codes.most
    rounded = codes.rounded(centers, np.full(1, step))
    # The center of a bin does not show the rounding error of a step smaller than the bin.
    fine = min(step, histogram.limit / BINS) if codes.name == "int8" else 0.0
    inner = np.where(centers < reach, fine**2 / 12, 0.0)
    return float(histogram.counts @ ((centers - rounded) ** 2 + inner))


def _divergence(histogram: Histogram, reach: float, codes: EightBitFormat) -> float:
    """Return the Kullback-Leibler divergence of the int8 codes from the values."""
    levels = INT8_MOST
    width = histogram.limit / BINS
    inside = max(int(np.ceil(reach / width)), 1)
    counts = histogram.counts[:inside].astype(np.float64)
    clipped = counts.copy()
    clipped[-1] += histogram.counts[inside:].sum()
    bins = np.minimum((np.arange(inside) * (levels + 1)) // inside, levels)
    sums = np.bincount(bins, weights=counts, minlength=levels + 1)
    filled = np.bincount(bins, weights=(counts > 0).astype(np.float64), minlength=levels + 1)
    spread = np.where(counts > 0, (sums / np.maximum(filled, 1))[bins], 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))
