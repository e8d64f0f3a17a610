"""Tables of text as Markdown, and how their cells show numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Table", "markdown_rows", "mebibytes", "three_digits"]


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
