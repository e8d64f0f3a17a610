"""Draw noise by position, the same for every tile, backend and language (Philox4x32-10)."""

import math
import numbers
import operator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.errors import UsageError

__all__ = ["check_noise", "latent", "philox4x32"]

# Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), table 2.
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_ROUNDS: Final = 10
_WORD: Final = np.uint64(32)
_LOW: Final = np.uint64(0xFFFFFFFF)
_CELLS: Final = 2**32  # that the counter tells apart on one axis


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int]) -> NDArray[np.uint32]:
    """Return ten rounds of Philox4x32.

    Args:
        counter: Counters, (4, ...) uint32, word 0 first.
        key: Key, two words of 32 bits, word 0 first.

    Returns:
        Random words, (4, ...) uint32.
    """
    x0, x1, x2, x3 = counter.astype(np.uint64)
    for step in range(_ROUNDS):
        k0, k1 = (
            np.uint64((word + step * add) & 0xFFFFFFFF)
            for word, add in zip(key, _KEY_STEPS, strict=True)
        )
        first, second = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1, x2, x3 = (
            (second >> _WORD) ^ x1 ^ k0,
            second & _LOW,
            (first >> _WORD) ^ x3 ^ k1,
            first & _LOW,
        )
    return np.stack([x0, x1, x2, x3]).astype(np.uint32)


def latent(
    seed: int,
    *,
    top: int,
    left: int,
    rows: int,
    columns: int,
    channels: int,
    temperature: float,
    stream: int = 0,
) -> NDArray[np.float32]:
    """Draw temperature x standard normal noise for a window of patches.

    Each value depends only on (seed, absolute patch row, absolute patch column, channel,
    stream): the counter is (row, column, channel, stream), the key (low word of seed, high
    word of seed). From the first two words a, b of the result, the normal deviate is
    sqrt(-2 ln u) cos(2 pi v), u = (a + 1) / 2^32, v = b / 2^32 (Box and Muller 1958), computed
    in float64 and then rounded.

    Args:
        seed: Random seed, 64 bits unsigned.
        top: First patch row of the window in the whole image.
        left: First patch column of the window in the whole image.
        rows: Patch rows.
        columns: Patch columns.
        channels: Channels D.
        temperature: Standard deviation, finite and at least 0.
        stream: Index of the latent in the model.

    Returns:
        Noise, (1, D, rows, columns).

    Raises:
        UsageError: If `seed` is not 64 bits unsigned, `temperature` not a finite real >= 0, or
            the window not within 2^32 rows and columns.
    """
    check_noise(seed, temperature)
    if not 0 <= min(top, left, rows, columns) <= max(top + rows, left + columns) <= _CELLS:
        raise UsageError(f"a window of noise must lie within {_CELLS} cells")
    key = (int(seed) & 0xFFFFFFFF, int(seed) >> 32)
    counter = np.zeros((4, rows, columns), dtype=np.uint32)
    counter[0] = np.arange(top, top + rows, dtype=np.uint32)[:, None]
    counter[1] = np.arange(left, left + columns, dtype=np.uint32)[None, :]
    counter[3] = stream
    noise = np.empty((1, channels, rows, columns), dtype=np.float32)
    for channel in range(channels):  # one at a time: ten rounds hold eight uint64 copies
        counter[2] = channel
        words = philox4x32(counter, key).astype(np.float64)
        radius = np.sqrt(-2.0 * np.log((words[0] + 1.0) / 2.0**32))
        noise[0, channel] = temperature * (radius * np.cos(2.0 * np.pi * words[1] / 2.0**32))
    return noise


def check_noise(seed: int, temperature: float) -> None:
    """Check a seed and a temperature, before slow work.

    Args:
        seed: Random seed, 64 bits unsigned.
        temperature: Standard deviation, finite and at least 0.

    Raises:
        UsageError: If one of them is invalid.
    """
    try:
        value = operator.index(seed)
    except TypeError as error:
        raise UsageError(f"seed must be a whole number, got {seed!r}", option="seed") from error
    if not 0 <= value < 2**64:
        raise UsageError(f"seed must be from 0 to 2**64 - 1, got {value}", option="seed")
    if not isinstance(temperature, numbers.Real):
        raise UsageError(f"temperature must be a number, got {temperature!r}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"temperature must be finite and at least 0, got {temperature}")
