"""From what was seen of a tensor to the range that eight bits span."""

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
"""Largest code: symmetric, so that zero is a code and both signs reach as far."""

PERCENTILE: Final = 99.99  # of magnitudes; the rest is clipped
CANDIDATES: Final = 64  # ranges that "mse" and "entropy" try, from a fifth of the largest on
LEAST_SHARE: Final = 0.2
TINY: Final = 1e-6  # a range of nothing but zeros


def activation_range(
    histogram: Histogram, method: Method, codes: EightBitFormat = INT8
) -> float:
    """Choose the magnitude at which a tensor is clipped.

    Args:
        histogram: Magnitudes that were seen.
        method: "minmax" clips nothing, "percentile" one value in ten thousand, "mse" where the
            sum of the squares of rounding and clipping is least, "entropy" where the
            distribution of the codes is closest to that of the values (Kullback-Leibler).
        codes: The type of eight bits, whose rounding "mse" weighs; "entropy" takes both for
            int8.

    Returns:
        The magnitude, above zero.

    Raises:
        UsageError: If there is no such method.
    """
    if method not in METHODS:
        raise UsageError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if histogram.largest <= TINY:
        return TINY
    if method == "minmax":
        return histogram.largest
    if method == "percentile":
        return _percentile(histogram)
    score = _rounding_error if method == "mse" else _divergence
    shares = np.linspace(LEAST_SHARE, 1.0, CANDIDATES)
    scores = [score(histogram, float(share) * histogram.largest, codes) for share in shares]
    return float(shares[int(np.argmin(scores))]) * histogram.largest


def weight_scales(
    weight: NDArray[np.float32], most: float = INT8_MOST, *, per_tensor: bool = False
) -> NDArray[np.float32]:
    """Choose the steps of a weight.

    A CPU without VNNI adds two neighbouring products in 16 bits, which saturate at 255 times
    128.5 (the other operand is unsigned there). So the magnitudes of two neighbours of one sign
    sum to at most 127 codes: it is the same file everywhere, and the same sums.

    Args:
        weight: (O, I, k, k) or (O, I).
        most: Largest code.
        per_tensor: One step for the whole weight in place of one for each output.

    Returns:
        Steps, (O,), all the same with `per_tensor`.
    """
    rows = weight if weight.ndim == 2 else weight.transpose(0, 2, 3, 1)
    reach = _neighbours(np.ascontiguousarray(rows, np.float64), weight.shape[1] % 2 == 0)
    if per_tensor:
        reach = np.full_like(reach, reach.max())
    return np.asarray(np.maximum(reach, TINY) / most, np.float32)


def _neighbours(rows: NDArray[np.float64], is_paired: bool) -> NDArray[np.float64]:
    """Largest magnitude of a row's weights and of its sums of neighbours, (O,)."""
    flat = rows.reshape(len(rows), -1)
    largest: NDArray[np.float64] = np.abs(flat).max(axis=1)
    if not is_paired:  # which are neighbours depends on the library's padding: take any two
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
    """Sum of squared errors of rounding within `reach` and of clipping beyond it."""
    centres = (np.arange(BINS) + 0.5) * histogram.limit / BINS
    step = reach / codes.most
    rounded = codes.rounded(centres, np.full(1, step))
    # A step smaller than a bin has its own error, which the centre of a bin does not show.
    fine = min(step, histogram.limit / BINS) if codes.name == "int8" else 0.0
    inner = np.where(centres < reach, fine**2 / 12, 0.0)
    return float(histogram.counts @ ((centres - rounded) ** 2 + inner))


def _divergence(histogram: Histogram, reach: float, codes: EightBitFormat) -> float:
    """Kullback-Leibler divergence of the distribution of int8 codes from the values'."""
    levels = INT8_MOST
    width = histogram.limit / BINS
    inside = max(int(np.ceil(reach / width)), 1)
    seen = histogram.counts[:inside].astype(np.float64)
    clipped = seen.copy()
    clipped[-1] += histogram.counts[inside:].sum()
    bins = np.minimum((np.arange(inside) * (levels + 1)) // inside, levels)
    sums = np.bincount(bins, weights=seen, minlength=levels + 1)
    filled = np.bincount(bins, weights=(seen > 0).astype(np.float64), minlength=levels + 1)
    spread = np.where(seen > 0, (sums / np.maximum(filled, 1))[bins], 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))
