"""Draw charts with matplotlib as SVG files that are reproducible byte for byte."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw_svg"]

# Without a date or random ids the same values give the same file.
STYLE: dict[Any, Any] = {"svg.hashsalt": "flowsr", "svg.fonttype": "none", "font.size": 9}


def draw_svg(draw: Callable[[Axes], None], size: tuple[float, float] = (9.0, 5.0)) -> str:
    """Draw one chart.

    Args:
        draw: Draws into empty axes.
        size: Width and height, inches.

    Returns:
        An SVG element, which is also a complete file.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode("utf-8")
    return text[text.index("<svg") :]
