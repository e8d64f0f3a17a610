"""An exploding inverse: values that no picture holds, counted and placed."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["RANGE", "OutOfRangeValues", "find_out_of_range"]

RANGE: Final = (-1.0, 2.0)
"""Pictures lie in [0, 1]; a value that overshoots by a whole range comes of no edge."""


@dataclass(frozen=True)
class OutOfRangeValues:
    """Values that no picture holds.

    Attributes:
        non_finite: How many are NaN or infinite.
        out_of_range: How many are finite and outside `RANGE`.
        total: How many there are in what was looked at, the sound ones included.
        rows: First and last row that holds one.
        columns: First and last column that holds one.
    """

    non_finite: int
    out_of_range: int
    total: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    def __str__(self) -> str:
        """Say in one line how many values there are, their share, and where."""
        kinds = []
        if self.non_finite:
            kinds.append(f"{self._share(self.non_finite)} are NaN or infinite")
        if self.out_of_range:
            least, most = RANGE
            inside = f"[{least:g}, {most:g}]"
            kinds.append(f"{self._share(self.out_of_range)} lie outside {inside}")
        return (
            f"{' and '.join(kinds)}, in output rows {self.rows[0]}-{self.rows[1]}, "
            f"columns {self.columns[0]}-{self.columns[1]}"
        )

    def _share(self, count: int) -> str:
        return f"{count} of {self.total} values ({100 * count / self.total:.3g} %)"

    def joined(self, other: "OutOfRangeValues") -> "OutOfRangeValues":
        """Return this and what was found elsewhere in the same picture as one."""
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
    """Look for values that no picture holds.

    Args:
        values: Unclamped pixels in units of full range, (..., rows, columns).
        top: Row of the first of these rows in the whole picture.
        left: Column of the first of these columns in the whole picture.
        total: Values of the whole picture if these are a part of it and are to be joined.

    Returns:
        What was found, None if nothing was.
    """
    least, most = RANGE
    # NaN compares as false: it is neither.
    inside = (values >= least) & (values <= most)
    if inside.all():
        return None
    finite = np.isfinite(values)
    return OutOfRangeValues(
        non_finite=int(np.count_nonzero(~finite)),
        out_of_range=int(np.count_nonzero(finite & ~inside)),
        total=values.size if total is None else total,
        rows=_ends(~inside, values.ndim - 2, top),
        columns=_ends(~inside, values.ndim - 1, left),
    )


def _ends(bad: NDArray[np.bool_], axis: int, begin: int) -> tuple[int, int]:
    others = tuple(i for i in range(bad.ndim) if i != axis)
    found = np.flatnonzero(bad.any(axis=others))
    return begin + int(found[0]), begin + int(found[-1])
