"""Write an evaluation as CSV, JSON and a Markdown table beside its contact sheet."""

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
from flowsr_export.reports.files import report_paths as paths_for
from flowsr_export.reports.files import write_files
from flowsr_export.reports.table import markdown_rows
from flowsr_runtime import write_picture

__all__ = [
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
    """Means over the images of a set.

    Attributes:
        dataset: Name of the set.
        scale: Scale as it was typed.
        method: Name of the model.
        pictures: Number of images.
        figures: Mean of each metric.
    """

    dataset: str
    scale: str
    method: str
    pictures: int
    figures: dict[str, float]


def means_of(rows: Sequence[Row]) -> list[Mean]:
    """Average over the images of each set, scale and model, in the order of the rows."""
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
    """Return one line for each row, with values in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    sizes = ("lr_width", "lr_height", "width", "height")
    identity = ("set", "picture", "scale", "method", *sizes, "samples", "seconds")
    writer.writerow([*identity, *rows[0].figures])
    for row in rows:
        sides = (*row.lr[::-1], *row.size[::-1])
        cells = (row.dataset, row.picture, row.scale, row.method, *sides, len(row.samples))
        writer.writerow([*cells, f"{row.seconds:.4f}", *map(repr, row.figures.values())])
    return text.getvalue()


def as_json(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole evaluation; docs/measuring/evaluate.md has the schema.

    Args:
        rows: Rows of every image, scale and model.
        about: Command, bundle, settings and versions.
    """
    return {
        "schema": SCHEMA,
        **about,
        "means": [_renamed(asdict(mean)) for mean in means_of(rows)],
        "rows": [_renamed(asdict(row)) for row in rows],
    }


def as_markdown(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """Return the means as a table, and the definitions of the metrics.

    Args:
        rows: Rows of every image, scale and model.
        about: Command, bundle, settings and versions.
    """
    names = list(rows[0].figures)
    lines = ["# flowsr-export evaluate", "", f"`{about['command']}`", "", _setting(about), ""]
    cells = [
        [mean.dataset, f"×{mean.scale}", mean.method, str(mean.pictures)]
        + [f"{mean.figures[name]:.{METRICS[name].digits}f}" for name in names]
        for mean in means_of(rows)
    ]
    lines += markdown_rows(["set", "scale", "method", "pictures", *names], cells)
    lines.append("")
    lines += [f"- {name}: {METRICS[name].meaning}; {_direction(name)}." for name in names]
    lines += [f"- {line}" for line in _protocol(about["settings"], names)]
    for row in rows:
        label = f"{row.dataset} {row.picture} ×{row.scale}, {row.method}"
        lines += [f"- Warning, {label}: {line}." for line in row.warnings]
    return "\n".join(lines) + "\n"


def report_paths(output: Path, *, force: bool) -> list[Path]:
    """Return the files of a report and make their folder, before slow work.

    Args:
        output: An existing folder, which gets `evaluation.csv` and so on; else the path of the
            files with or without a suffix.
        force: Overwrite existing files.

    Raises:
        OutputError: If a file exists and `force` is false, or the folder cannot be made.
    """
    return paths_for(output, SUFFIXES, force=force, name=NAME)


def write_report(
    rows: Sequence[Row], about: Mapping[str, Any], sheet: Image.Image, paths: Sequence[Path]
) -> None:
    """Write the files of a report, each of them completely or not at all.

    Args:
        rows: Rows of every image, scale and model.
        about: Command, bundle, settings and versions.
        sheet: Contact sheet.
        paths: Files from `report_paths`; existing ones are replaced.

    Raises:
        OutputError: If a file cannot be written.
    """
    document = json.dumps(as_json(rows, about), indent=1) + "\n"
    texts = as_csv(rows), document, as_markdown(rows, about)
    write_files(dict(zip(paths, texts, strict=False)))
    write_picture(paths[-1], np.asarray(sheet), force=True)


def _renamed(entry: dict[str, Any]) -> dict[str, Any]:
    """Rename the key `dataset` to `set`, which is a built-in name in Python."""
    return {"set" if key == "dataset" else key: value for key, value in entry.items()}


def _setting(about: Mapping[str, Any]) -> str:
    settings = about["settings"]
    parts = [about["model"]["what"]]
    parts.append(f"{settings['backend']} {settings['provider']} {settings['precision']}")
    if settings["temperature"] is not None:
        stated = ", ".join(f"{value:g}" for value in settings["temperature"])
        parts.append(
            f"temperature {stated}, {settings['samples']} samples from seed {settings['seed']}"
        )
    bicubic = "MATLAB's" if settings["protocol"]["downsample"] == "matlab" else "Pillow's"
    made = "inputs given" if settings["lr"] else f"inputs by {bicubic} bicubic"
    if settings["scales_reduced"]:
        made += f" but for ×{', ×'.join(settings['scales_reduced'])}, by {bicubic}"
    parts.append(made)
    libraries = ", ".join(f"{name} {v}" for name, v in about["libraries"].items())
    return f"{'; '.join(parts)}; {libraries}."


def _protocol(settings: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Describe the protocol in sentences."""
    protocol = settings["protocol"]
    borders = [
        f"{name} {_border(protocol[key])}"
        for name in names
        if (key := name.replace("-", "_")) in protocol and isinstance(protocol[key], dict)
    ]
    if settings["shave"] is not None:
        borders = [f"{settings['shave']} pixels of the outputs"]
    lines = [f"Protocol: {protocol['name']}; border {protocol['border']}."]
    if borders:
        lines.append(f"Shaved on every side: {', '.join(borders)}.")
    forms = {
        "rounded": "rounded to eight bits",
        "truncated": "truncated to eight bits",
        "float": "not rounded",
    }
    lines.append(f"Outputs were compared {forms[protocol['values']]}.")
    if "ssim" in names or "ssim-y" in names:
        windows = {"gaussian": "Gaussian, 11 pixels", "uniform": "flat, 7 pixels"}
        lines.append(f"Window of SSIM: {windows[protocol['ssim_kind']]}.")
    return lines


def _border(shave: Mapping[str, int]) -> str:
    terms = ["the scale" if shave["scales"] == 1 else f"{shave['scales']} times the scale"]
    terms = terms if shave["scales"] else []
    if shave["more"]:
        terms.append(f"{shave['more']}")
    return " + ".join(terms) or "nothing"


def _direction(name: str) -> str:
    better = METRICS[name].better
    return "only descriptive" if better == "neither" else f"{better} is better"
