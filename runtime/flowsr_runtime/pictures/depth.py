"""Bit depths of pictures: 8 bits, 16 bits or float."""

from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.errors import ShapeError, UsageError

__all__ = [
    "DEPTHS",
    "Depth",
    "promote_depth",
    "check_depth",
    "depth_of",
    "depth_text",
    "full_scale",
    "to_depth",
]

Depth: TypeAlias = Literal[8, 16, "float"]
"""Bits per channel; "float" is float32 in [0, 1]."""

DEPTHS: Final[tuple[Depth, ...]] = (8, 16, "float")
"""All depths, from the coarsest to the finest."""

_DTYPES: Final[dict[Depth, type[np.generic]]] = {
    8: np.uint8,
    16: np.uint16,
    "float": np.float32,
}


def full_scale(dtype: np.dtype[Any]) -> int:
    """Return the value for full intensity: 255 for uint8, 65535 for uint16, 1 for float32."""
    return int(np.iinfo(dtype).max) if dtype.kind == "u" else 1


def check_depth(depth: object) -> None:
    """Check a depth.

    Raises:
        UsageError: If it is not one of `DEPTHS`.
    """
    if depth not in DEPTHS:
        raise UsageError(f"depth must be 8, 16 or float, got {depth!r}")


def depth_of(values: NDArray[Any]) -> Depth:
    """Return the depth of an array.

    Args:
        values: Any shape, uint8, uint16 or float32.

    Returns:
        Depth of the dtype, whatever the values are: dark 16-bit pictures stay 16-bit.

    Raises:
        ShapeError: If it has another dtype.
    """
    for depth, dtype in _DTYPES.items():
        if values.dtype == dtype:
            return depth
    raise ShapeError(f"pixels must be uint8, uint16 or float32, got {values.dtype}")


def depth_text(depth: Depth) -> str:
    """Return a depth in words, as in "16 bits per channel"."""
    return "float channels" if depth == "float" else f"{depth} bits per channel"


def promote_depth(values: NDArray[Any], depth: Depth) -> NDArray[Any]:
    """Return values at a depth, or unchanged if theirs is finer."""
    finer = DEPTHS.index(depth) > DEPTHS.index(depth_of(values))
    return to_depth(values, depth) if finer else values


def to_depth(values: NDArray[Any], depth: Depth) -> NDArray[Any]:
    """Return values at another depth, rounded to the nearest.

    Args:
        values: Any shape, uint8, uint16, or float32 in [0, 1].
        depth: Depth of the result.

    Returns:
        The array itself if it has that depth. From 8 to 16 bits and back is lossless.

    Raises:
        ShapeError: If `values` has another dtype.
    """
    given = depth_of(values)
    if given == depth:
        return values
    dtype = np.dtype(_DTYPES[depth])
    if "float" not in (given, depth):  # 65535 = 255 * 257; uint16 would overflow at the top
        wide = values.astype(np.uint32)
        wide = wide * 257 if depth == 16 else (wide + 128) // 257
        return wide.astype(dtype)
    scaled = values.astype(np.float32)
    if depth == "float":
        scaled /= np.float32(full_scale(values.dtype))
        return scaled
    scaled *= np.float32(full_scale(dtype))
    scaled += np.float32(0.5)
    result: NDArray[Any] = scaled.astype(dtype)
    return result
