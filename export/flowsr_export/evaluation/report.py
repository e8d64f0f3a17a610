"""An evaluation as CSV, JSON and a Markdown table, written beside its sheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowsr_export.evaluation.metrics import METRICS
from flowsr_export.evaluation.run import Row
from flowsr_runtime import write_picture
from flowsr_runtime.atomic import replace_file
from flowsr_runtime.errors import OutputError

__all__ = [
    "SUFFIXES",
    "Mean",
    "as_csv",
    "as_json",
    "as_markdown",
    "means_of",
    "report_paths",
    "write_report",
]

SUFFIXES = (".csv", ".json", ".md", ".png")
NAME = "evaluation"  # of the files in a folder
SCHEMA = 1


@dataclass(frozen=True)
class Mean:
    """Means over the pictures of a set.

    Attributes:
        dataset: Name of the set.
        scale: Output pixels per input pixel.
        method: What enlarged them.
        pictures: How many there were.
        figures: Each figure's mean.
    """

    dataset: str
    scale: str
    method: str
    pictures: int
    figures: dict[str, float]


def means_of(rows: Sequence[Row]) -> list[Mean]:
    """Average over the pictures of each set, scale and method, in the order of the rows."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.scale, row.method), []).append(row)
    return [
        Mean(
            *key,
            len(members),
            {
                name: float(np.mean([row.figures[name] for row in members]))
                for name in members[0].figures
            },
        )
        for key, members in groups.items()
    ]


def as_csv(rows: Sequence[Row]) -> str:
    """Return one line for each row, every figure in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    sizes = ("lr_width", "lr_height", "width", "height")
    about = ("set", "picture", "scale", "method", *sizes, "samples", "seconds")
    writer.writerow([*about, *rows[0].figures])
    for row in rows:
        sides = (*row.lr[::-1], *row.size[::-1])
        what = (row.dataset, row.picture, row.scale, row.method, *sides, len(row.samples))
        writer.writerow([*what, f"{row.seconds:.4f}", *map(repr, row.figures.values())])
    return text.getvalue()


def as_json(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole evaluation; docs/evaluate.md has the schema.

    Args:
        rows: Every picture, scale and method.
        about: Command, bundle, settings and versions.
    """
    return {
        "schema": SCHEMA,
        **about,
        "means": [_renamed(asdict(mean)) for mean in means_of(rows)],
        "rows": [_renamed(asdict(row)) for row in rows],
    }


def as_markdown(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """Return the means as a table, and what the figures are.

    Args:
        rows: Every picture, scale and method.
        about: Command, bundle, settings and versions.
    """
    names = list(rows[0].figures)
    lines = ["# flowsr-export evaluate", "", f"`{about['command']}`", "", _setting(about), ""]
    lines += [*_table(names, means_of(rows)), ""]
    lines += [f"- {name}: {METRICS[name].what}; {_direction(name)}." for name in names]
    shave = about["settings"]["shave"]
    if shave is not None:
        lines.append(f"- Borders of {shave} pixels were left out in place of those above.")
    for row in rows:
        what = f"{row.dataset} {row.picture} ×{row.scale}, {row.method}"
        lines += [f"- Warning, {what}: {line}." for line in row.warnings]
    return "\n".join(lines) + "\n"


def _table(names: Sequence[str], means: Sequence[Mean]) -> list[str]:
    lines = [f"| set | scale | method | pictures | {' | '.join(names)} |"]
    lines.append("| --- " * (4 + len(names)) + "|")
    for mean in means:
        cells = [f"{mean.figures[name]:.{METRICS[name].digits}f}" for name in names]
        what = (mean.dataset, f"×{mean.scale}", mean.method, str(mean.pictures))
        lines.append(f"| {' | '.join((*what, *cells))} |")
    return lines


def report_paths(output: Path, *, force: bool) -> list[Path]:
    """Return the files of a report and make their folder, before slow work.

    Args:
        output: A folder that is there, which gets `evaluation.csv` and so on; else the name
            of the files without their suffix, or with one of them.
        force: Overwrite what is there.

    Raises:
        OutputError: If a file is there already and must not be overwritten, or the folder
            cannot be made.
    """
    stem = output / NAME if output.is_dir() else output
    stem = stem.with_suffix("") if stem.suffix in SUFFIXES else stem
    paths = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES]
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} exists; replace it with force (--force)")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"folder {stem.parent} cannot be made: {error.strerror or error}"
        ) from error
    return paths


def write_report(
    rows: Sequence[Row], about: Mapping[str, Any], sheet: Image.Image, paths: Sequence[Path]
) -> None:
    """Write the files of a report, each of them whole or not at all.

    Args:
        rows: Every picture, scale and method.
        about: Command, bundle, settings and versions.
        sheet: Pictures side by side.
        paths: As `report_paths` returned them; what is there is replaced.

    Raises:
        OutputError: If one cannot be written.
    """
    texts = (
        as_csv(rows),
        json.dumps(as_json(rows, about), indent=1) + "\n",
        as_markdown(rows, about),
    )
    for path, text in zip(paths, texts, strict=False):
        try:
            replace_file(path, text.encode("utf-8"))
        except OSError as error:
            why = error.strerror or error
            raise OutputError(f"{path} cannot be written: {why}") from error
    write_picture(paths[-1], np.asarray(sheet), force=True)


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """Call the set by the word that users know; Python has another use for it."""
    return {"set" if key == "dataset" else key: value for key, value in entry.items()}


def _setting(about: Mapping[str, Any]) -> str:
    settings = about["settings"]
    what = [about["model"]["what"]]
    what.append(f"{settings['backend']} {settings['provider']} {settings['precision']}")
    if settings["temperature"] is not None:
        what.append(
            f"temperature {settings['temperature']:g}, {settings['samples']} samples from "
            f"seed {settings['seed']}"
        )
    what.append("inputs given" if settings["lr"] else "inputs by MATLAB's bicubic")
    libraries = ", ".join(f"{name} {v}" for name, v in about["libraries"].items())
    return f"{'; '.join(what)}; {libraries}."


def _direction(name: str) -> str:
    better = METRICS[name].better
    return "it only describes" if better == "neither" else f"{better} is better"
