"""The `evaluate` command."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.choice import choice_record, say_choice
from flowsr_export.options.command import Choice, Command
from flowsr_export.options.progress import progress
from flowsr_export.options.session import evaluation_options
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    bundle_argument,
    choice_option,
    flag,
    force_option,
    halo_option,
    json_option,
    memory_budget_option,
    number_option,
    scales_option,
    seed_option,
)
from flowsr_export.options.speech import note
from flowsr_export.options.values import FiniteRange, WholeRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsr_export.evaluation.metric_set import MetricSet
    from flowsr_export.evaluation.model import EvaluatedModel
    from flowsr_export.evaluation.run import Result, Row

__all__ = ["command"]

METRICS = (
    *("psnr", "psnr-y", "ssim", "ssim-y", "lpips", "lr-psnr"),
    *("mesh", "out-of-range"),
    *("diversity", "diversity-score"),
)
SCALES = "2,3,4"


def _check_scales(scales: Sequence[Any]) -> None:
    """Refuse scales that are repeated, or differ between the axes."""
    texts = [scale if isinstance(scale, str) else "x".join(scale[::-1]) for scale in scales]
    if len(set(texts)) < len(texts) or any("x" in text for text in texts):
        got = ",".join(texts)
        raise click.BadParameter(f"expected distinct scales such as 2,2.7,4, got {got}")


@click.command("evaluate", cls=Command)
@click.option(
    "--hr",
    multiple=True,
    required=True,
    type=FILE,
    help="Folder of original images; may be repeated.",
)
@click.option(
    "--lr",
    multiple=True,
    type=FILE,
    show_default="the originals, reduced by MATLAB's bicubic filter",
    help="Folder of low-resolution images with the same names; may be repeated.",
)
@scales_option(f"the bundle's own, or {SCALES}", _check_scales)
@click.option(
    "--metric",
    "metrics",
    type=Choice(METRICS),
    multiple=True,
    show_default="psnr to lr-psnr, and diversity with --samples",
    help="Metric to compute; may be repeated.",
)
@click.option("--alexnet", type=FILE, help="AlexNet weights, for LPIPS.")
@click.option("--lpips-weights", "linear", type=FILE, help="LPIPS weights, version 0.1.")
@click.option(
    "--shave",
    type=WholeRange(min=0),
    show_default="the published rules",
    help="Border in pixels that PSNR and SSIM ignore.",
)
@choice_option("--baseline", ["bicubic", "none"], "Method to evaluate besides the bundle.")
@number_option("--samples", POSITIVE, 1, "Number of noise samples to average over.")
@seed_option("Random seed of the first sample.")
@evaluation_options
@bundle_argument
@click.option("--model", type=FILE, help="Checkpoint of a flow, for --backend torch.")
@click.option("--prior", type=FILE, help="Checkpoint of its learned prior.")
@click.option(
    "--temperature",
    type=FiniteRange(min=0),
    help="Standard deviation of the noise, for bundles without a learned prior.",
)
@flag("--truncate", "Truncate values to 8 bits, as SRFlow's released script does.")
@memory_budget_option
@halo_option
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Folder, or file name without suffix, for .csv, .json, .md and .png.",
)
@force_option
@json_option
def command(output: Path | None, force: bool, as_json: bool, **asked: Any) -> None:
    """Measure the quality of BUNDLE, or of the built-in model, on images with originals.

    Each original is reduced, upscaled and compared by the published protocols: PSNR, SSIM,
    LPIPS, consistency with the input, diversity over samples. --backend torch evaluates a
    checkpoint that has not been exported. A metric that cannot be computed ends with exit
    code 3.

    \b
    Examples:
      flowsr-export evaluate --hr Set5 --metric psnr-y --metric ssim-y
      flowsr-export evaluate --hr Set5 --lr Set5 --alexnet a.pth --lpips-weights l.pth -o set5
      flowsr-export evaluate flow.bundle --hr DIV2K --temperature 0.8 --samples 5 --metric psnr
    """
    from flowsr_export.evaluation.metric_set import DEFAULT_METRICS, MetricSet
    from flowsr_export.evaluation.model import open_model
    from flowsr_export.evaluation.report import as_json as as_object
    from flowsr_export.evaluation.report import as_markdown, report_paths, write_report
    from flowsr_export.evaluation.sheet import sheet_of

    paths = [] if output is None else report_paths(output, force=force)
    defaults = DEFAULT_METRICS if asked["samples"] == 1 else (*DEFAULT_METRICS, "diversity")
    options = {name: asked[name] for name in ("shave", "alexnet", "linear")}
    metric_set = MetricSet.open(asked["metrics"] or defaults, **options)
    names = ("temperature", "truncate", "memory_budget", "halo")
    options = {name: asked[name] for name in names}
    checkpoint = asked["model"], asked["prior"]
    with open_model(asked["settings"], asked["bundle"], *checkpoint, **options) as model:
        rows, shown = _evaluated(asked, metric_set, model)
    say_choice(model.choice, asked["settings"])
    about = _about(asked, model)
    if paths:
        write_report(rows, about, sheet_of(shown), paths)
    for row in rows:
        for line in row.warnings:
            name = f"{row.dataset} {row.picture} ×{row.scale}"
            note(f"{name}: {line}")
    if as_json:
        files = [str(path) for path in paths]
        report = {"files": files, "runs_on": choice_record(model.choice)}
        click.echo(json.dumps({**report, **as_object(rows, about)}))
        return
    click.echo(as_markdown(rows, about), nl=False)
    if paths:
        click.echo(f"\nwritten: {', '.join(str(path) for path in paths)}")


def _evaluated(
    asked: dict[str, Any], metric_set: MetricSet, model: EvaluatedModel
) -> tuple[list[Row], list[Result]]:
    """Evaluate with a bar; return all rows, and the results that the sheet shows."""
    from flowsr_export.evaluation.dataset import find_pairs
    from flowsr_export.evaluation.model import BICUBIC
    from flowsr_export.evaluation.run import check_pairs, evaluate
    from flowsr_export.evaluation.sheet import chosen

    asked["scales"] = asked["scales"] or (model.scale or SCALES).split(",")
    model.check_scales(asked["scales"])
    pairs = find_pairs(asked["hr"], asked["lr"], asked["scales"])
    with progress("reading", len(pairs)) as bar:
        check_pairs(pairs, metric_set, partial(bar.advance, 1), model.patch)
    baselines = [BICUBIC] if asked["baseline"] == "bicubic" else []
    methods = [*baselines, model]
    on_sheet = {(pair.dataset, pair.name, pair.scale) for pair in chosen(pairs)}
    rows, shown = [], []
    with progress("evaluate", len(pairs) * len(methods)) as bar:
        noise = {"samples": asked["samples"], "seed": asked["seed"]}
        advance = partial(bar.advance, 1)
        for result in evaluate(pairs, methods, metric_set, **noise, advance=advance):
            row = result.row
            rows.append(row)
            if (row.dataset, row.picture, row.scale) in on_sheet:
                shown.append(result)
    return rows, shown


def _about(asked: dict[str, Any], model: EvaluatedModel) -> dict[str, Any]:
    """Describe the model, the settings and the libraries for the report."""
    from importlib.metadata import version

    plain = ("shave", "temperature", "samples", "seed", "truncate")
    run = None if model.choice is None else model.choice.settings
    return {
        "command": shlex.join(["flowsr-export", *sys.argv[1:]]),
        "model": model.about,
        "settings": {
            "hr": [str(folder) for folder in asked["hr"]],
            "lr": [str(folder) for folder in asked["lr"]],
            "scales": list(asked["scales"]),
            "backend": asked["settings"].backend if run is None else run.backend,
            "provider": model.provider,
            "precision": "fp32" if run is None else run.precision,
            **{name: asked[name] for name in plain},
        },
        "libraries": {"flowsr-lp": version("flowsr-lp"), **model.libraries},
    }
