"""Tables of text as Markdown, and how their cells show numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Table", "finite", "markdown_rows", "mebibytes", "three_digits"]


@dataclass
class Table:
    """Rows of text under a heading.

    Attributes:
        title: Heading.
        columns: Names of the columns.
        note: Explanation between heading and table.
        rows: Cells of each row.
    """

    title: str
    columns: Sequence[str]
    note: str = ""
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """Return heading, note and table as Markdown."""
        lines = [f"## {self.title}", ""] + ([self.note, ""] if self.note else [])
        return "\n".join([*lines, *markdown_rows(self.columns, self.rows)])


def markdown_rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; a bar within a cell becomes a slash."""
    return [
        f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
        for cells in (columns, ["---"] * len(columns), *rows)
    ]


def mebibytes(size: int | None) -> str:
    """Return a number of bytes as text, such as "12 MiB"."""
    return "unknown" if size is None else f"{size / 2**20:.0f} MiB"


def three_digits(value: float | None) -> str:
    """Return a number with three significant digits, "none" if it is missing or not finite."""
    return "none" if value is None or not math.isfinite(value) else f"{value:.3g}"


def finite(value: Any, digits: int | None = None) -> Any:
    """Return a value for JSON: lists, and None for NaN and infinity.

    Args:
        value: Dictionaries, lists and tuples of plain values.
        digits: Significant digits of floats, None for all.
    """
    if isinstance(value, dict):
        return {name: finite(item, digits) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item, digits) for item in value]
    if not isinstance(value, float):
        return value
    rounded = value if digits is None else float(f"{value:.{digits}g}")
    return rounded if math.isfinite(value) else None
