"""Tables of a report as Markdown and as HTML, and the head of its page."""

from __future__ import annotations

import html
from collections.abc import Sequence

__all__ = ["HEAD", "Table"]

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>flowsr-export bench</title>
<style>
body { font: 15px/1.5 sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
td, th { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: right; }
td:first-child, th:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
</style></head><body>
"""


class Table:
    """Rows of texts under a heading."""

    def __init__(self, title: str, columns: Sequence[str], note: str = "") -> None:
        """Begin a table."""
        self.title, self.columns, self.note = title, list(columns), note
        self.rows: list[list[str]] = []

    def markdown(self) -> str:
        """Return it as Markdown."""
        lines = [f"## {self.title}", ""] + ([self.note, ""] if self.note else [])
        for cells in (self.columns, ["---"] * len(self.columns), *self.rows):
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
        return "\n".join(lines)

    def html(self) -> str:
        """Return it as HTML."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n"
            for row in self.rows
        )
        note = f"<p>{html.escape(self.note)}</p>\n" if self.note else ""
        title = f"<h2>{html.escape(self.title)}</h2>\n{note}"
        return f"{title}<table><tr>{head}</tr>\n{body}</table>\n"
