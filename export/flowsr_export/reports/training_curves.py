"""Draw what a training run has logged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from flowsr_export.reports.svg import draw_grid, draw_png
from flowsr_runtime.errors import CheckpointError

__all__ = ["draw_training_curves"]

Line = dict[str, Any]

COLUMNS = 3
CHART = (3.6, 2.6)  # inches
SMOOTHING = 0.9  # of the training's own figures, each of one random batch


def draw_training_curves(folder: Path, *, png: bool = False) -> str | bytes:
    """Draw every figure of a run over its steps, with that of the validation images.

    Args:
        folder: Folder of the run, with `log.jsonl`.
        png: Whether to return a PNG file, and not an SVG file.

    Returns:
        The file's content.

    Raises:
        CheckpointError: If the folder has no log, or it is empty or damaged.
    """
    path = folder / "log.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        names = [name for name in lines[0] if name not in ("step", "validation")]
        charts: list[Callable[[Axes], None]] = [partial(_chart, lines, name) for name in names]
        draw = draw_png if png else draw_grid
        return draw(charts, min(COLUMNS, len(charts)), CHART)
    except OSError as error:
        raise CheckpointError(f"{folder} is not a training run: {error.strerror}") from error
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is empty or damaged") from error


def _chart(lines: Sequence[Line], name: str, axes: Axes) -> None:
    steps = [line["step"] for line in lines]
    axes.plot(steps, _smoothed([line[name] for line in lines]), label="training")
    checked = [line for line in lines if name in line.get("validation", {})]
    if checked:
        values = [line["validation"][name] for line in checked]
        axes.plot([line["step"] for line in checked], values, label="validation")
    axes.set_title(name)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend()


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average, from the first value on."""
    smooth, result = values[0], []
    for value in values:
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * value
        result.append(smooth)
    return result
