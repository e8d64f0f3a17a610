"""Charts of a benchmark's report, drawn with matplotlib as SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes

from flowsr_export.bench.entries import Report, Row, StageEntry
from flowsr_export.onnx_graph.stages import STAGES
from flowsr_export.reports.svg import draw_svg
from flowsr_runtime.geometry import size_text

__all__ = ["draw_charts"]

COLORS = ("#8c8c8c", *(f"C{i}" for i in range(6)), "#d9d9d9")
BAND_ALPHA = 0.2


def draw_charts(report: Report) -> dict[str, str]:
    """Draw the charts for which a report has values.

    Returns:
        SVG elements by title: latency, stages, efficiency and memory.
    """
    rows = report.rows
    charts: dict[str, Callable[[Axes], None]] = {"Latency per scale": partial(_latency, rows)}
    if report.stages:
        charts["Stages of one run"] = partial(_stages, report.stages)
    if any(row.efficiency is not None for row in rows):
        charts["Share of the machine's matrix products"] = partial(
            _points, rows, lambda row: row.efficiency, "share of the matmul rate"
        )
    if any(_memory_mib(row) is not None for row in rows):
        charts["Peak memory"] = partial(_points, rows, _memory_mib, "MiB above the libraries")
    return {title: draw_svg(draw) for title, draw in charts.items()}


def _series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each line of a chart, in the order of output pixels."""
    several = len({row.lr for row in rows}) > 1 and len({row.scale for row in rows}) > 1
    groups: dict[str, list[Row]] = {}
    for row in rows:
        name = row.series + (f", {size_text(row.lr)}" if several else "")
        groups.setdefault(name, []).append(row)
    return {name: sorted(group, key=_megapixels) for name, group in groups.items()}


def _latency(rows: Sequence[Row], axes: Axes) -> None:
    highest = _highest(rows)
    for name, group in _series(rows).items():
        x = [_megapixels(row) for row in group]
        y = [1e3 * row.median for row in group]
        high = [1e3 * (row.seconds[highest] or row.median) for row in group]
        low = [1e3 * (row.seconds["minimum"] or row.median) for row in group]
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=name)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=BAND_ALPHA, linewidth=0)
    for row in {_megapixels(row): row for row in rows}.values():
        axes.annotate(
            f"×{row.scale}",
            (_megapixels(row), 1),
            (0, -10),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="#666666",
        )
    axes.set(xscale="log", yscale="log", xlabel="output megapixels", ylabel="milliseconds")
    axes.set_title(f"median; band from the fastest run to {highest}", fontsize=9)
    _finish(axes)


def _stages(entries: Sequence[StageEntry], axes: Axes) -> None:
    labels = [f"×{entry.scale}\n{size_text(entry.lr)}" for entry in entries]
    left = [0.0] * len(entries)
    for stage, color in zip(STAGES, COLORS, strict=True):
        parts = [1e3 * entry.seconds.get(stage, 0.0) for entry in entries]
        if any(parts):
            axes.barh(labels, parts, left=left, label=stage, color=color)
        left = [a + b for a, b in zip(left, parts, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds of kernels, ONNX Runtime cpu")
    _finish(axes)


def _points(
    rows: Sequence[Row], value_of: Callable[[Row], float | None], label: str, axes: Axes
) -> None:
    """Draw one line for each series that has values, from zero."""
    for name, group in _series(rows).items():
        known = [(_megapixels(row), value_of(row)) for row in group]
        points = [(x, y) for x, y in known if y is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=name)
    axes.set(xscale="log", xlabel="output megapixels", ylabel=label)
    axes.set_ylim(bottom=0)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _megapixels(row: Row) -> float:
    return row.pixels[1] / 1e6


def _highest(rows: Sequence[Row]) -> str:
    """Return the name of the highest percentile that every row has."""
    names = [
        name
        for name in rows[0].seconds
        if name.startswith("p") and all(row.seconds.get(name) is not None for row in rows)
    ]
    return max(names, key=lambda name: float(name[1:]))


def _memory_mib(row: Row) -> float | None:
    size = None if row.memory is None else row.memory.model_bytes
    return None if size is None else size / 2**20
