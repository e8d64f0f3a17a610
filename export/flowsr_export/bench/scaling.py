"""How the time of a run grows with the picture: a + b · input pixels + c · output pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["DEPARTURE", "growth_of"]

# Relative difference from the fit above which a row is named.
DEPARTURE = 0.15
LEAST_ROWS = 4
COSTS = ("seconds", "seconds_per_input_pixel", "seconds_per_output_pixel")


def growth_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fit the median times of each backend over sizes and scales.

    The fit makes relative errors small, so that small pictures count as much as large ones;
    no cost is negative.

    Args:
        rows: Of a report.

    Returns:
        For each backend and what was timed of it the three costs, and the rows that depart
        from the fit, with measured over fitted time; "trouble" where there is no fit.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["backend"], row["provider"], row["precision"], row["measures"])
        groups.setdefault(key, []).append(row)
    return [_fit(members) for members in groups.values()]


def _fit(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        key: rows[0][key] for key in ("backend", "provider", "precision", "measures")
    }
    sizes = np.array([_pixels(row) for row in rows])
    times = np.array([row["seconds"]["p50"] for row in rows])
    matrix = np.concatenate([np.ones((len(rows), 1)), sizes], axis=1)
    if len(rows) < LEAST_ROWS or np.linalg.matrix_rank(matrix / matrix.max(0)) < len(COSTS):
        entry["trouble"] = "a fit needs four rows or more, of several sizes and scales"
        return entry
    costs = _least_squares(matrix / times[:, None])
    ratios = times / (matrix @ costs)
    entry.update(zip(COSTS, map(float, costs), strict=True))
    entry["worst"] = float(np.abs(ratios - 1).max())
    entry["departures"] = [
        {"scale": row["scale"], "lr": row["lr"], "size": row["size"], "ratio": float(ratio)}
        for row, ratio in zip(rows, ratios, strict=True)
        if abs(ratio - 1) > DEPARTURE
    ]
    return entry


def _least_squares(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """Costs x ≥ 0 for which `matrix @ x` is nearest to one: the best subset of columns."""
    scale = matrix.max(0)
    best, least = np.zeros(len(scale)), np.inf
    for subset in range(1, 2 ** len(scale)):
        columns = [i for i in range(len(scale)) if subset >> i & 1]
        part = matrix[:, columns] / scale[columns]
        found, *_ = np.linalg.lstsq(part, np.ones(len(matrix)), rcond=None)
        error = float(np.square(part @ found - 1).sum())
        if (found >= 0).all() and error < least:
            best, least = np.zeros(len(scale)), error
            best[columns] = found / scale[columns]
    return best


def _pixels(row: dict[str, Any]) -> tuple[int, int]:
    (h, w), (height, width) = row["lr"], row["size"]
    return row["batch"] * h * w, row["batch"] * height * width
