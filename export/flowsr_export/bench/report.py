"""Write a benchmark's report as JSON, Markdown, and one HTML page with charts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flowsr_export.bench.entries import Report, Row, ScalingFit
from flowsr_export.bench.memory import Memory
from flowsr_export.bench.timing import runs_needed
from flowsr_export.inputs.cases import Case
from flowsr_export.onnx_graph.stages import STAGES
from flowsr_export.reports.files import report_paths, write_files
from flowsr_export.reports.page import Page, Section
from flowsr_export.reports.table import Table, mebibytes
from flowsr_runtime.geometry import size_text

__all__ = ["SUFFIXES", "as_markdown", "page_of", "scaling_lines", "write_report"]

SUFFIXES = (".json", ".md", ".html")


def write_report(
    report: Report, path: Path, command: str, *, force: bool = False
) -> list[Path]:
    """Write the three files of a report.

    Args:
        report: The report.
        path: Path of the files; a suffix .json, .md or .html is replaced by each.
        command: Command line that made the report.
        force: Overwrite existing files.

    Returns:
        The files.

    Raises:
        OutputError: If a file exists and `force` is false, or cannot be written.
    """
    from flowsr_export.bench.charts import draw_charts

    paths = report_paths(path, SUFFIXES, force=force)
    sections = [Section(title, svg) for title, svg in draw_charts(report).items()]
    page = page_of(report, command, sections)
    document = json.dumps({"command": command, **report.as_dict()}, indent=1) + "\n"
    write_files(dict(zip(paths, (document, page.markdown(), page.html()), strict=True)))
    return paths


def as_markdown(report: Report, command: str) -> str:
    """Return a report as Markdown."""
    return page_of(report, command).markdown()


def page_of(report: Report, command: str, sections: Sequence[Section] = ()) -> Page:
    """Return the content of a report with its charts."""
    tables = [_latency(report), _cost(report), _probes(report)]
    return Page(
        "flowsr-export bench",
        command,
        _summary_lines(report),
        [
            *tables,
            *([_placements(report)] if report.placements else []),
            *([_stages(report)] if report.stages else []),
        ],
        sections,
        "Growth",
        [line for fit in report.growth or () for line in scaling_lines(fit)],
    )


def scaling_lines(fit: ScalingFit) -> list[str]:
    """Return one line with the costs of a fit, and one for each row that departs from it."""
    name = f"{fit.backend} {fit.provider} {fit.precision}, {fit.measures}"
    costs = fit.seconds, fit.seconds_per_input_pixel, fit.seconds_per_output_pixel
    if fit.trouble is not None or None in (*costs, fit.worst):
        return [f"{name}: {fit.trouble}"]
    constant, inner, outer = (cost or 0.0 for cost in costs)
    return [
        f"{name}: {1e3 * constant:.3g} ms + {1e6 * inner:.3g} ms per 1000 input pixels + "
        f"{1e6 * outer:.3g} ms per 1000 output pixels; rows differ by at most "
        f"{fit.worst or 0.0:.0%}",
        *(
            f"{name} departs at {size_text(departure.lr)}, ×{departure.scale}: "
            f"{departure.ratio:.2f} times the fit"
            for departure in fit.departures
        ),
    ]


def _summary_lines(report: Report) -> list[str]:
    machine, settings, bundle = report.machine, report.settings, report.bundle
    libraries = ", ".join(f"{name} {v}" for name, v in machine["libraries"].items())
    gpus = "".join(f", {gpu['name']}, driver {gpu['driver']}" for gpu in machine["gpus"])
    lines = [
        f"{bundle['family']}, {bundle['graph']} of {bundle['path']}; {machine['cpu']}, "
        f"{machine['cores']} usable cores{gpus}; {settings['threads']} threads; {libraries}.",
        f"{settings['blocks']} interleaved blocks in random order, "
        f"{settings['duration_seconds']:g} s of each row after {settings['warm_up_seconds']:g} "
        f"s of warm-up. Clocks before and after: {_clocks(machine['clocks_before'])}, "
        f"{_clocks(machine['clocks_after'])}.",
    ]
    loaded = sum(row.load == "loaded" for row in report.rows)
    if loaded:
        lines.append(
            f"Other processes were busy or the GPU was throttled: {loaded} of "
            f"{len(report.rows)} rows could not be measured without that."
        )
    return lines + [f"Not measured, {name}: {why}." for name, why in report.not_started.items()]


def _latency(report: Report) -> Table:
    names = list(report.rows[0].seconds)
    note = (
        "Milliseconds. gpu: the model alone, arrays in GPU memory; graph: the model alone, "
        "arrays in host memory; end-to-end: an eight-bit image from array to array; streams: "
        "several runs at once, timed until the last of them ends."
    )
    empty = sorted(
        {
            float(name[1:])
            for row in report.rows
            for name, value in row.seconds.items()
            if value is None
        }
    )
    if empty:
        needs = ", ".join(f"p{level:g} needs {runs_needed(level)} runs" for level in empty)
        note += f" Empty: too few runs ({needs}); --min-runs sets the least number."
    table = Table("Latency", ["row", *names, "output MP/s", "runs", "load"], note)
    for row in report.rows:
        times = [_milliseconds(row.seconds[name]) for name in names]
        load = row.load + (f", {row.loaded_blocks} blocks" if row.loaded_blocks else "")
        load += f", {row.throttled_blocks} throttled" if row.throttled_blocks else ""
        rate = f"{row.megapixels_per_second:.3g}"
        table.rows.append([_name(report, row), *times, rate, str(row.runs), load])
    return table


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.4g}"


def _name(report: Report, row: Row) -> str:
    """Return the name of a row, with the file of the size-fixed graph that it ran, if any."""
    fixed = report.bundle.get("size_fixed", {})
    file = fixed.get(str(Case(row.lr, row.size, row.batch)))
    return f"{row}, {file}" if file and row.backend in ("onnxruntime", "openvino") else str(row)


def _cost(report: Report) -> Table:
    note = (
        "Efficiency: multiply-adds of the graph over the median time, as a share of the "
        "machine's matrix products in the same run. Bandwidth: bytes that the layers of an "
        "engine for one size move, as a share of the machine's copies. Memory: a separate "
        "process; the first value is its peak above that of its libraries. Load: seconds to "
        "open the model; first run: milliseconds, before the warm-up."
    )
    columns = ["row", "multiply-adds", "efficiency", "memory", "peak", "GPU memory"]
    columns += ["bandwidth", "load", "first run"]
    measured = any(row.joules_per_megapixel is not None for row in report.rows)
    if measured:
        columns.append("J/MP")
        note += " J/MP: energy of the GPU for a megapixel of output."
    rows = [_cost_cells(row)[: len(columns)] for row in report.rows]
    return Table("Cost", columns, note, rows)


def _cost_cells(row: Row) -> list[str]:
    memory, energy = row.memory or Memory(), row.joules_per_megapixel
    return [
        str(row),
        f"{row.multiply_adds / 1e9:.3g} G",
        "unknown" if row.efficiency is None else f"{row.efficiency:.2f}",
        memory.trouble or mebibytes(memory.model_bytes),
        mebibytes(memory.host_bytes),
        "none" if row.provider == "cpu" else mebibytes(memory.device_bytes),
        "" if row.bandwidth is None else f"{row.bandwidth:.2f}",
        "" if row.load_seconds is None else f"{row.load_seconds:.3g}",
        _milliseconds(row.first_call_seconds),
        "" if energy is None else f"{energy:.3g}",
    ]


def _probes(report: Report) -> Table:
    table = Table("The machine in this run", ["probe", "best", "median", "load"])
    for probe in report.probes:
        unit = "G multiply-adds/s" if probe.kind == "matmul" else "GB/s"
        rates = probe.best_per_second, probe.median_per_second
        cells = [f"{rate / 1e9:.4g} {unit}" for rate in rates]
        table.rows.append([f"{probe.name}, {probe.place}", *cells, probe.load])
    return table


def _placements(report: Report) -> Table:
    note = (
        "Nodes of the graph as ONNX Runtime optimizes it, by the provider that runs them, and "
        "copies between host and device, in one run of the first size."
    )
    columns = ["provider", "nodes", "elsewhere", "copies", "float32 products"]
    table = Table("Placement", columns, note)
    for one in report.placements:
        nodes = ", ".join(f"{count} {name}" for name, count in one.nodes.items())
        kinds = ", ".join(f"{count} {name}" for name, count in one.kinds.items())
        cells = [nodes, kinds or "none", str(one.copies), "TF32" if one.tf32 else "float32"]
        table.rows.append([f"{one.provider} {one.precision}", *cells])
    return table


def _stages(report: Report) -> Table:
    present = {stage for entry in report.stages for stage in entry.seconds}
    stages = [stage for stage in STAGES if stage in present]
    note = (
        "Milliseconds of kernels in one run, from ONNX Runtime's profile on the CPU; geometry "
        "is indices and the linear resizing."
    )
    rows = [
        [str(entry), *(f"{1e3 * entry.seconds.get(stage, 0.0):.3g}" for stage in stages)]
        for entry in report.stages
    ]
    return Table("Stages", ["row", *stages], note, rows)


def _clocks(clocks: Mapping[str, Any]) -> str:
    if clocks["gpus"]:
        return "; ".join(clocks["gpus"])
    mhz = clocks["cpu_mhz"]
    return f"{min(mhz):.0f} to {max(mhz):.0f} MHz" if mhz else "unknown"
