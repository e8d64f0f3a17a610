"""Detect an exploding inverse: values far out of range, and patches that were kept in it."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["RANGE", "OutOfRangeValues", "count_guarded", "find_out_of_range"]

RANGE: Final = (-1.0, 2.0)
"""Images lie in [0, 1]; no edge makes a value overshoot by a whole range."""

GUARDED_RANGE: Final = (-0.1, 1.1)
"""A guarded graph shrinks the residual of a patch until its extreme value lies at an end."""

HALF_STEP: Final = 2e-3
"""Distance from an end that half precision may leave."""


@dataclass(frozen=True)
class OutOfRangeValues:
    """Count and location of the values outside `RANGE`.

    Attributes:
        non_finite: Number of NaN and infinite values.
        out_of_range: Number of finite values outside `RANGE`.
        total: Number of all values, including those in range.
        rows: First and last row with such a value.
        columns: First and last column with such a value.
    """

    non_finite: int
    out_of_range: int
    total: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    def __str__(self) -> str:
        """Return one line with the number of values, their share and their location."""
        parts = []
        if self.non_finite:
            parts.append(f"{self._share(self.non_finite)} are NaN or infinite")
        if self.out_of_range:
            least, most = RANGE
            inside = f"[{least:g}, {most:g}]"
            parts.append(f"{self._share(self.out_of_range)} lie outside {inside}")
        return (
            f"{' and '.join(parts)}, in output rows {self.rows[0]}-{self.rows[1]}, "
            f"columns {self.columns[0]}-{self.columns[1]}"
        )

    def _share(self, count: int) -> str:
        return f"{count} of {self.total} values ({100 * count / self.total:.3g} %)"

    def __or__(self, other: "OutOfRangeValues") -> "OutOfRangeValues":
        """Combine the values of two parts of one image."""
        assert self.total == other.total
        return OutOfRangeValues(
            self.non_finite + other.non_finite,
            self.out_of_range + other.out_of_range,
            self.total,
            (min(self.rows[0], other.rows[0]), max(self.rows[1], other.rows[1])),
            (min(self.columns[0], other.columns[0]), max(self.columns[1], other.columns[1])),
        )


def find_out_of_range(
    values: NDArray[np.float32], *, top: int = 0, left: int = 0, total: int | None = None
) -> OutOfRangeValues | None:
    """Find values outside `RANGE`.

    Args:
        values: Unclamped pixels in units of full range, (..., rows, columns).
        top: Position of the first row in the whole image.
        left: Position of the first column in the whole image.
        total: Number of values of the whole image, if `values` is a part of it.

    Returns:
        Their count and location, None if all values lie in range.
    """
    least, most = RANGE
    # Comparisons with NaN are false.
    if values.min() >= least and values.max() <= most:
        return None
    inside = (values >= least) & (values <= most)
    finite = np.isfinite(values)
    return OutOfRangeValues(
        non_finite=int(np.count_nonzero(~finite)),
        out_of_range=int(np.count_nonzero(finite & ~inside)),
        total=values.size if total is None else total,
        rows=_ends(~inside, values.ndim - 2, top),
        columns=_ends(~inside, values.ndim - 1, left),
    )


def count_guarded(values: NDArray[np.float32], patch: int) -> int:
    """Count the patches whose extreme value lies at an end of `GUARDED_RANGE`.

    Args:
        values: Unclamped pixels of a guarded graph in units of full range, (rows, columns, 3),
            beginning at a corner of a patch.
        patch: Side of a patch in pixels.
    """
    least, most = GUARDED_RANGE[0] + HALF_STEP, GUARDED_RANGE[1] - HALF_STEP
    if values.min() > least and values.max() < most:
        return 0
    at_end = (values <= least) | (values >= most)
    rows, columns = np.nonzero(at_end.any(axis=2))
    patches = np.zeros([-(-side // patch) for side in values.shape[:2]], dtype=np.bool_)
    patches[rows // patch, columns // patch] = True
    return int(np.count_nonzero(patches))


def _ends(invalid: NDArray[np.bool_], axis: int, begin: int) -> tuple[int, int]:
    others = tuple(i for i in range(invalid.ndim) if i != axis)
    positions = np.flatnonzero(invalid.any(axis=others))
    return begin + int(positions[0]), begin + int(positions[-1])
