"""The pictures of a benchmark's report, drawn with matplotlib as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowsr_export.onnx_graph.stages import STAGES

__all__ = ["pictures_of"]

WIDTH, HEIGHT = 9.0, 5.0  # inches
# The same SVG for the same report: no date, no random ids.
STYLE: dict[Any, Any] = {"svg.hashsalt": "flowsr", "svg.fonttype": "none", "font.size": 9}
COLOURS = ("#8c8c8c", *(f"C{i}" for i in range(6)), "#d9d9d9")
BAND_ALPHA = 0.2


def pictures_of(report: dict[str, Any]) -> dict[str, str]:
    """Draw what a report holds.

    Args:
        report: As `bench` returns it.

    Returns:
        SVG elements by title: latency, stages, efficiency and memory, where there are figures.
    """
    rows = report["rows"]
    pictures = {"Latency per scale": _drawn(_latency, rows)}
    if report["stages"]:
        pictures["Stages of one run"] = _drawn(_stages, report["stages"])
    if any(row["efficiency"] is not None for row in rows):
        pictures["Share of the machine's matrix products"] = _drawn(_efficiency, rows)
    if any(_memory_bytes(row) is not None for row in rows):
        pictures["Peak memory"] = _drawn(_memory, rows)
    return pictures


def _drawn(draw: Any, items: Sequence[dict[str, Any]]) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(figure.subplots(), items)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode("utf-8")
    return text[text.index("<svg") :]


def _series(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by what is one line of a picture, in the order of output pixels."""
    several = len({tuple(row["lr"]) for row in rows}) > 1
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = f"{row['backend']} {row['provider']} {row['precision']}, {row['measures']}"
        if several and len({r["scale"] for r in rows}) > 1:
            name += f", {row['lr'][1]}x{row['lr'][0]}"
        groups.setdefault(name, []).append(row)
    return {name: sorted(group, key=_megapixels) for name, group in groups.items()}


def _latency(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for name, group in _series(rows).items():
        x = [_megapixels(row) for row in group]
        y = [1e3 * row["seconds"]["p50"] for row in group]
        high = [1e3 * row["seconds"][_highest(row)] for row in group]
        low = [1e3 * row["seconds"]["minimum"] for row in group]
        (line,) = axes.plot(x, y, marker="o", markersize=4, label=name)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=BAND_ALPHA, linewidth=0)
    for row in {_megapixels(row): row for row in rows}.values():
        axes.annotate(
            f"×{row['scale']}",
            (_megapixels(row), 1),
            (0, -10),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="#666666",
        )
    axes.set(xscale="log", yscale="log", xlabel="output megapixels", ylabel="milliseconds")
    axes.set_title(f"median; band from the fastest run to {_highest(rows[0])}", fontsize=9)
    _finish(axes)


def _stages(axes: Axes, items: Sequence[dict[str, Any]]) -> None:
    labels = [f"×{e['scale']}\n{e['lr'][1]}x{e['lr'][0]}" for e in items]
    left = [0.0] * len(items)
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        parts = [1e3 * entry["seconds"].get(stage, 0.0) for entry in items]
        if any(parts):
            axes.barh(labels, parts, left=left, label=stage, color=colour)
        left = [a + b for a, b in zip(left, parts, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds of kernels, ONNX Runtime cpu")
    _finish(axes)


def _efficiency(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for name, group in _series(rows).items():
        known = [row for row in group if row["efficiency"] is not None]
        x = [_megapixels(row) for row in known]
        axes.plot(x, [row["efficiency"] for row in known], "o-", markersize=4, label=name)
    axes.set(xscale="log", xlabel="output megapixels", ylabel="share of the matmul rate")
    axes.set_ylim(bottom=0)
    _finish(axes)


def _memory(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for name, group in _series(rows).items():
        known = [(row, _memory_bytes(row)) for row in group]
        points = [(_megapixels(row), size / 2**20) for row, size in known if size is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, label=name)
    axes.set(xscale="log", xlabel="output megapixels", ylabel="MiB above the libraries")
    axes.set_ylim(bottom=0)
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _megapixels(row: dict[str, Any]) -> float:
    return float(row["batch"] * row["size"][0] * row["size"][1]) / 1e6


def _highest(row: dict[str, Any]) -> str:
    """Name of the highest percentile of a row."""
    names = [name for name in row["seconds"] if name.startswith("p")]
    return str(max(names, key=lambda name: float(name[1:])))


def _memory_bytes(row: dict[str, Any]) -> int | None:
    memory = row["memory"]
    if memory is None or memory["host_bytes"] is None or memory["libraries_bytes"] is None:
        return None
    return int(memory["host_bytes"] - memory["libraries_bytes"])
