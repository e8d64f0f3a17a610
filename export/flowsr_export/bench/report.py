"""A benchmark's report as JSON, as Markdown, and as one HTML page with its pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowsr_export.onnx_graph.stages import STAGES
from flowsr_export.reports.table import HEAD, Table
from flowsr_runtime.atomic import replace_file
from flowsr_runtime.errors import OutputError

__all__ = [
    "SUFFIXES",
    "as_html",
    "as_markdown",
    "growth_lines",
    "report_paths",
    "write_report",
]

SUFFIXES = (".json", ".md", ".html")


def write_report(
    report: dict[str, Any], path: Path, command: str, *, force: bool = False
) -> list[Path]:
    """Write the three files of a report.

    Args:
        report: As `bench` returns it.
        path: Where; .json, .md and .html take the place of such an ending, or are added.
        command: The command line that made it.
        force: Overwrite what is there.

    Returns:
        The files.

    Raises:
        OutputError: If one is there already, or cannot be written.
    """
    paths = report_paths(path, force=force)
    contents = (
        json.dumps({"command": command, **report}, indent=1) + "\n",
        as_markdown(report, command),
        as_html(report, command),
    )
    try:
        for target, text in zip(paths, contents, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, text.encode("utf-8"))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return paths


def report_paths(path: Path, *, force: bool) -> list[Path]:
    """Return the files of a report.

    Raises:
        OutputError: If one is there already and must not be overwritten.
    """
    stem = path.with_suffix("") if path.suffix in SUFFIXES else path
    paths = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    for target in paths:
        if target.exists() and not force:
            raise OutputError(f"{target} exists; --force overwrites it")
    return paths


def as_markdown(report: dict[str, Any], command: str) -> str:
    """Return a report as Markdown."""
    parts = ["# flowsr-export bench", f"`{command}`", *_about(report)]
    parts += [table.markdown() for table in _tables(report)]
    growth = [f"- {line}" for line in growth_lines(report)]
    if growth:
        parts.append("\n".join(["## Growth", "", *growth]))
    return "\n\n".join(parts) + "\n"


def as_html(report: dict[str, Any], command: str) -> str:
    """Return a report as one page that needs no other file."""
    from flowsr_export.bench.charts import pictures_of

    parts = [HEAD, "<h1>flowsr-export bench</h1>\n"]
    parts += [f"<p><code>{html.escape(command)}</code></p>\n"]
    parts += [f"<p>{html.escape(line)}</p>\n" for line in _about(report)]
    for title, svg in pictures_of(report).items():
        parts.append(f"<h2>{html.escape(title)}</h2>\n{svg}\n")
    parts += [table.html() for table in _tables(report)]
    parts += [f"<p>{html.escape(line)}</p>\n" for line in growth_lines(report)]
    return "".join([*parts, "</body></html>\n"])


def growth_lines(report: Mapping[str, Any]) -> list[str]:
    """Say how the time grows, and where it departs from that."""
    lines = []
    for fit in report.get("growth", []):
        name = f"{fit['backend']} {fit['provider']} {fit['precision']}, {fit['measures']}"
        if "trouble" in fit:
            lines.append(f"{name}: {fit['trouble']}")
            continue
        lines.append(
            f"{name}: {1e3 * fit['seconds']:.3g} ms + "
            f"{1e6 * fit['seconds_per_input_pixel']:.3g} ms per 1000 input pixels + "
            f"{1e6 * fit['seconds_per_output_pixel']:.3g} ms per 1000 output pixels; "
            f"at most {fit['worst']:.0%} from it"
        )
        lines += [
            f"{name} departs at {d['lr'][1]}x{d['lr'][0]}, ×{d['scale']}: {d['ratio']:.2f} "
            "times the fit"
            for d in fit["departures"]
        ]
    return lines


def _about(report: dict[str, Any]) -> list[str]:
    machine, settings = report["machine"], report["settings"]
    libraries = ", ".join(f"{name} {v}" for name, v in machine["libraries"].items())
    gpus = "".join(f", {gpu['name']}, driver {gpu['driver']}" for gpu in machine["gpus"])
    lines = [
        f"{report['bundle']['family']}, {report['bundle']['graph']} of "
        f"{report['bundle']['path']}; {machine['cpu']}, {machine['cores']} usable cores{gpus}; "
        f"{settings['threads']} threads; {libraries}.",
        f"{settings['blocks']} interleaved blocks in random order, "
        f"{settings['duration_seconds']:g} s of each row after {settings['warm_up_seconds']:g} "
        f"s of warm-up. Clocks before and after: {_clocks(machine, 'clocks_before')}, "
        f"{_clocks(machine, 'clocks_after')}.",
    ]
    loaded = sum(row["load"] == "loaded" for row in report["rows"])
    if loaded:
        lines.append(
            f"Other processes were busy: {loaded} of {len(report['rows'])} rows could not be "
            "measured without them."
        )
    lines += [f"Not measured, {name}: {why}." for name, why in report["not_started"].items()]
    return lines


def _tables(report: dict[str, Any]) -> list[Table]:
    tables = [_latency(report), _cost(report), _probes(report)]
    return tables + ([_stages(report)] if report["stages"] else [])


def _latency(report: dict[str, Any]) -> Table:
    names = list(report["rows"][0]["seconds"])
    note = (
        "Milliseconds. gpu: the model alone, arrays that stay on the GPU; graph: the model "
        "alone, arrays of the host in and out; end-to-end: an eight-bit picture in and out, "
        "as a program sees it."
    )
    table = Table("Latency", ["what", *names, "output MP/s", "runs", "load"], note)
    for row in report["rows"]:
        times = [f"{1e3 * row['seconds'][name]:.4g}" for name in names]
        speed = f"{row['megapixels_per_second']:.3g}"
        load = f"{row['load']}, {row['loaded_blocks']} blocks" * (row["loaded_blocks"] > 0)
        table.rows.append([_what(row), *times, speed, str(row["runs"]), load or row["load"]])
    return table


def _cost(report: dict[str, Any]) -> Table:
    note = (
        "Efficiency: multiply-adds of the graph over the median time, as a share of the "
        "machine's matrix products in the same run. Memory: of a process of its own; the "
        "first figure is what it holds above its libraries."
    )
    columns = ["what", "multiply-adds", "efficiency", "memory", "peak", "GPU memory"]
    table = Table("Efficiency and memory", columns, note)
    for row in report["rows"]:
        efficiency = row["efficiency"]
        memory = row["memory"] or {}
        peak, libraries = memory.get("host_bytes"), memory.get("libraries_bytes")
        above = None if peak is None or libraries is None else peak - libraries
        table.rows.append(
            [
                _what(row),
                f"{row['multiply_adds'] / 1e9:.3g} G",
                "unknown" if efficiency is None else f"{efficiency:.2f}",
                memory.get("trouble") or _mebibytes(above),
                _mebibytes(peak),
                "none" if row["provider"] == "cpu" else _mebibytes(memory.get("device_bytes")),
            ]
        )
    return table


def _probes(report: dict[str, Any]) -> Table:
    table = Table("The machine in this run", ["what", "best", "median", "load"])
    for probe in report["probes"]:
        unit = "G multiply-adds/s" if probe["kind"] == "matmul" else "GB/s"
        best, median = (
            f"{probe[f'{kind}_per_second'] / 1e9:.4g} {unit}" for kind in ("best", "median")
        )
        name = f"{probe['name']}, {probe['place']}"
        table.rows.append([name, best, median, probe["load"]])
    return table


def _stages(report: dict[str, Any]) -> Table:
    held = {stage for entry in report["stages"] for stage in entry["seconds"]}
    stages = [stage for stage in STAGES if stage in held]
    note = (
        "Milliseconds of kernels in one run, ONNX Runtime's profile on the CPU; geometry is "
        "indices and the linear resizing."
    )
    table = Table("Stages", ["what", *stages], note)
    for entry in report["stages"]:
        times = [f"{1e3 * entry['seconds'].get(stage, 0.0):.3g}" for stage in stages]
        table.rows.append([_what({**entry, "measures": "profile"}), *times])
    return table


def _what(row: dict[str, Any]) -> str:
    (h, w), (height, width) = row["lr"], row["size"]
    batch = f", batch {row['batch']}" if row["batch"] > 1 else ""
    return (
        f"{row['backend']} {row['provider']} {row['precision']}, {row['measures']}, "
        f"×{row['scale']}, {w}x{h} to {width}x{height}{batch}"
    )


def _clocks(machine: dict[str, Any], name: str) -> str:
    clocks = machine[name]
    if clocks["gpus"]:
        return "; ".join(clocks["gpus"])
    mhz = clocks["cpu_mhz"]
    return f"{min(mhz):.0f} to {max(mhz):.0f} MHz" if mhz else "unknown"


def _mebibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:.0f} MiB"
