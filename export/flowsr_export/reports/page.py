"""A report as Markdown and as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from flowsr_export.reports.table import Table

__all__ = ["Page", "Section"]


@dataclass(frozen=True)
class Section:
    """A part of a page that is shown in HTML only.

    Attributes:
        title: Heading.
        svg: A chart.
        lines: Paragraphs.
        images: Lines of images, each with its caption.
    """

    title: str
    svg: str = ""
    lines: Sequence[str] = ()
    images: Sequence[Sequence[tuple[Image.Image, str]]] = ()


@dataclass(frozen=True)
class Page:
    """The content of a report.

    Attributes:
        title: Heading.
        command: Command line that made the report.
        lines: Paragraphs below the heading.
        tables: Tables, after the sections.
        sections: Charts and images.
        closing_title: Heading of the closing lines in Markdown.
        closing: Lines at the end.
        passed: Verdict beside the heading, None for a report without one.
    """

    title: str
    command: str
    lines: Sequence[str]
    tables: Sequence[Table]
    sections: Sequence[Section] = ()
    closing_title: str = ""
    closing: Sequence[str] = ()
    passed: bool | None = None

    def markdown(self) -> str:
        """Return the report as Markdown, without its sections."""
        parts = [f"# {self.title}", f"`{self.command}`", *self.lines]
        parts += [table.markdown() for table in self.tables]
        if self.closing:
            closing = [f"- {line}" for line in self.closing]
            parts.append("\n".join([f"## {self.closing_title}", "", *closing]))
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """Return the report as one HTML page.

        Raises:
            ImportError: If Jinja2 is not installed.
        """
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("flowsr_export.reports"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=StrictUndefined,
        )
        environment.filters["png"] = _png
        return environment.get_template("page.html").render(page=self)


def _png(image: Image.Image) -> str:
    """Return an image as a PNG file in base64."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
