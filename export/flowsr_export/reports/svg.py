"""Draw charts with matplotlib: SVG files, reproducible byte for byte, and PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw_grid", "draw_png", "draw_svg"]

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
    return draw_grid([draw], 1, size)


def draw_grid(
    draws: Sequence[Callable[[Axes], None]], columns: int, size: tuple[float, float]
) -> str:
    """Draw several charts as one picture.

    Args:
        draws: Each draws into empty axes.
        columns: Charts beside each other.
        size: Width and height of one chart, inches.

    Returns:
        An SVG element, which is also a complete file.
    """
    metadata = {"Date": None, "Creator": None}
    text = _drawn(draws, columns, size, "svg", metadata).decode("utf-8")
    return text[text.index("<svg") :]


def draw_png(
    draws: Sequence[Callable[[Axes], None]], columns: int, size: tuple[float, float]
) -> bytes:
    """Draw several charts as one PNG file; the arguments are those of `draw_grid`."""
    return _drawn(draws, columns, size, "png", {"Software": None})


def _drawn(
    draws: Sequence[Callable[[Axes], None]],
    columns: int,
    size: tuple[float, float],
    form: str,
    metadata: dict[str, None],
) -> bytes:
    rows = -(-len(draws) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, draw in zip(grid, draws, strict=False):
            draw(axes)
        for axes in list(grid)[len(draws) :]:
            axes.remove()
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()
