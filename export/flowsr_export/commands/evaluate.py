"""The `evaluate` command."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
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
    value_option,
)
from flowsr_export.options.speech import note
from flowsr_export.options.values import WholeRange, parse_temperatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsr_export.evaluation.metric_set import MetricSet
    from flowsr_export.evaluation.model import EvaluatedModel
    from flowsr_export.evaluation.protocol import Protocol
    from flowsr_export.evaluation.run import Result, Row

__all__ = ["command"]

METRICS = (
    *("psnr", "psnr-y", "ssim", "ssim-y", "lpips", "dists", "lr-psnr"),
    *("mesh", "out-of-range"),
    *("diversity", "diversity-score"),
)
SCALES = "2,3,4"
WEIGHTS = {"lpips": ("alexnet", "linear"), "dists": ("vgg16", "dists_weights")}


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
    show_default="the originals, reduced by a bicubic filter",
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
@click.option("--vgg16", type=FILE, help="VGG16 weights, for DISTS.")
@click.option("--dists-weights", type=FILE, help="DISTS weights.")
@click.option(
    "--protocol",
    type=Choice(["linf-lp", "linf-lp-arbitrary", "linf", "srflow"]),
    show_default="eight bits, MATLAB's filter, borders of the LINF-LP paper",
    help="Published protocol: border, inputs, values, metrics and shaving in one word; options "
    "below change single choices.",
)
@click.option(
    "--border",
    type=Choice(["extend", "tight", "paired"]),
    show_default="the protocol's, or extend",
    help="Rule for patches beyond the edge; with --backend torch.",
)
@click.option(
    "--downsample",
    type=Choice(["matlab", "pillow"]),
    show_default="the protocol's, or matlab",
    help="Bicubic filter that reduces originals.",
)
@click.option(
    "--values",
    type=Choice(["rounded", "truncated", "float"]),
    show_default="the protocol's, or rounded",
    help="Form in which outputs are compared: eight bits, or not rounded.",
)
@click.option(
    "--ssim",
    type=Choice(["gaussian", "uniform"]),
    show_default="the protocol's, or gaussian",
    help="Window of SSIM: Gaussian of 11 pixels, or scikit-image's flat one of 7.",
)
@click.option(
    "--lr-values",
    type=Choice(["rounded", "float"]),
    show_default="the protocol's, or rounded",
    help="Form of the reduced output that lr-psnr compares with the input.",
)
@click.option(
    "--shave",
    type=WholeRange(min=0),
    show_default="the protocol's",
    help="Border in pixels that PSNR and SSIM ignore.",
)
@choice_option("--baseline", ["bicubic", "none"], "Method to evaluate besides the bundle.")
@number_option("--samples", POSITIVE, 1, "Number of noise samples to average over.")
@seed_option("Random seed of the first sample.")
@evaluation_options
@bundle_argument
@click.option("--model", type=FILE, help="Checkpoint of a flow, for --backend torch.")
@click.option("--prior", type=FILE, help="Checkpoint of its learned prior.")
@value_option(
    parse_temperatures,
    "--temperature",
    "temperatures",
    help="Standard deviation of the noise, for bundles without a learned prior or with graphs "
    "of latents; several are separated by commas.",
)
@flag("--truncate", "Truncate values to 8 bits, as --values truncated does.")
@click.option("--keep", type=FILE, help="Folder in which the outputs are kept.")
@click.option(
    "--score",
    type=FILE,
    help="Folder of outputs that were made elsewhere, evaluated instead of a bundle.",
)
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
def command(output: Path | None, as_json: bool, **asked: Any) -> None:
    """Measure the quality of BUNDLE, or of the built-in model, on images with originals.

    Each original is reduced, upscaled and compared by the published protocols: PSNR, SSIM,
    LPIPS, DISTS, consistency with the input, diversity over samples. --backend torch
    evaluates a checkpoint that has not been exported. A metric that cannot be computed ends
    with exit code 3.

    \b
    Examples:
      flowsr-export evaluate --hr Set5 --metric psnr-y --metric ssim-y
      flowsr-export evaluate --hr Set5 --lr Set5 --alexnet a.pth --lpips-weights l.pth -o set5
      flowsr-export evaluate flow.bundle --hr DIV2K --temperature 0.8 --samples 5 --metric psnr
    """
    from flowsr_export.evaluation.kept import scored
    from flowsr_export.evaluation.model import TORCH, open_model
    from flowsr_export.evaluation.report import as_json as as_object
    from flowsr_export.evaluation.report import as_markdown, report_paths, write_report
    from flowsr_export.evaluation.sheet import sheet_of

    paths = [] if output is None else report_paths(output, force=asked["force"])
    protocol = _protocol(asked)
    metric_set = _metric_set(asked, protocol)
    _check_score(asked)
    temperatures = asked["temperatures"] or (None,)
    options = {name: asked[name] for name in ("memory_budget", "halo")}
    options |= {"temperature": temperatures[0], "truncate": protocol.values == "truncated"}
    if asked["settings"].backend == TORCH or asked["border"] is not None:
        options["border"] = protocol.border
    elif protocol.border != "extend":
        note(
            f"patches beyond the edge: extend, as exported; --backend torch: {protocol.border}"
        )
        protocol = asked["used"] = replace(protocol, border="extend")
    checkpoint = asked["model"], asked["prior"]
    opened: AbstractContextManager[EvaluatedModel]
    if asked["score"] is not None:
        opened = nullcontext(scored(asked["score"]))
    else:
        opened = open_model(asked["settings"], asked["bundle"], *checkpoint, **options)
    with opened as model:
        rows, shown = _evaluated(asked, metric_set, _at_temperatures(model, temperatures))
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


def _protocol(asked: dict[str, Any]) -> Protocol:
    """Return the protocol with the choices that were made one by one."""
    from flowsr_export.evaluation.protocol import OWN, PROTOCOLS

    protocol = PROTOCOLS.get(asked["protocol"], OWN)
    if asked["truncate"] and asked["values"] not in (None, "truncated"):
        raise click.UsageError(f"--truncate and --values {asked['values']} exclude each other")
    values = "truncated" if asked["truncate"] else asked["values"]
    changes = {
        "border": asked["border"],
        "downsample": asked["downsample"],
        "values": values,
        "ssim_kind": asked["ssim"],
        "lr_rounded": asked["lr_values"] and asked["lr_values"] == "rounded",
    }
    given = {name: value for name, value in changes.items() if value is not None}
    protocol = asked["used"] = replace(protocol, **given)
    return protocol


def _metric_set(asked: dict[str, Any], protocol: Protocol) -> MetricSet:
    """Return the metrics; of those that were not asked for by name, two need weights."""
    from flowsr_export.evaluation.metric_set import DEFAULT_METRICS, MetricSet

    metrics = asked["metrics"]
    if not metrics:
        metrics = DEFAULT_METRICS
        if asked["samples"] > 1:
            metrics = (*metrics, "diversity")
        for metric, (network, own) in WEIGHTS.items():
            if asked[network] is None and asked[own] is None:
                metrics = tuple(name for name in metrics if name != metric)
                note(f"{metric} is left out: it needs --{network} and --{metric}-weights")
    names = ("shave", *(name for pair in WEIGHTS.values() for name in pair))
    options = {name: asked[name] for name in names}
    return MetricSet.open(metrics, protocol=protocol, **options)


def _check_score(asked: dict[str, Any]) -> None:
    """Refuse a model beside outputs that were made elsewhere."""
    names = ("bundle", "model", "prior", "temperatures", "keep")
    given = [name for name in names if asked[name] is not None]
    if asked["score"] is not None and given:
        other = {"bundle": "BUNDLE", "temperatures": "--temperature"}
        name = other.get(given[0], f"--{given[0]}")
        raise click.UsageError(f"--score and {name} exclude each other")


def _at_temperatures(
    model: EvaluatedModel, temperatures: Sequence[float | None]
) -> list[EvaluatedModel]:
    """Return the model at each temperature, with names that tell them apart."""
    if len(temperatures) == 1 or model.at is None:
        return [model]
    return [
        replace(model.at(value), name=f"{model.name}-t{value:g}", choice=model.choice)
        for value in temperatures
        if value is not None
    ]


def _evaluated(
    asked: dict[str, Any], metric_set: MetricSet, models: list[EvaluatedModel]
) -> tuple[list[Row], list[Result]]:
    """Evaluate with a bar; return all rows, and the results that the sheet shows."""
    from flowsr_export.evaluation.dataset import find_pairs
    from flowsr_export.evaluation.kept import keep
    from flowsr_export.evaluation.model import BICUBIC
    from flowsr_export.evaluation.run import check_pairs, evaluate
    from flowsr_export.evaluation.sheet import chosen

    model = models[0]
    asked["scales"] = asked["scales"] or (model.scale or SCALES).split(",")
    model.check_scales(asked["scales"])
    pairs = find_pairs(asked["hr"], asked["lr"], asked["scales"], metric_set.protocol)
    alone = {pair.scale: None for pair in pairs if pair.lr is None} if asked["lr"] else {}
    asked["reduced"] = list(alone)
    for scale in alone:
        note(f"×{scale} has no folder in --lr: its originals are reduced")
    with progress("reading", len(pairs)) as bar:
        check_pairs(pairs, metric_set, partial(bar.advance, 1), model.patch)
    baselines = [BICUBIC] if asked["baseline"] == "bicubic" else []
    methods = [*baselines, *models]
    on_sheet = {(pair.dataset, pair.name, pair.scale) for pair in chosen(pairs)}
    rows, shown = [], []
    with progress("evaluate", len(pairs) * len(methods)) as bar:
        noise = {"samples": asked["samples"], "seed": asked["seed"]}
        advance = partial(bar.advance, 1)
        for result in evaluate(pairs, methods, metric_set, **noise, advance=advance):
            row = result.row
            rows.append(row)
            if asked["keep"] is not None and row.method != BICUBIC.name:
                keep(result, asked["keep"], force=asked["force"])
            if (row.dataset, row.picture, row.scale) in on_sheet:
                shown.append(result)
    return rows, shown


def _about(asked: dict[str, Any], model: EvaluatedModel) -> dict[str, Any]:
    """Describe the model, the settings and the libraries for the report."""
    from importlib.metadata import version

    plain = ("shave", "samples", "seed")
    protocol = {"name": asked["protocol"] or "own", **asdict(asked["used"])}
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
            "protocol": protocol,
            "scales_reduced": asked["reduced"],
            "temperature": asked["temperatures"] and list(asked["temperatures"]),
            **{name: asked[name] for name in plain},
        },
        "libraries": {"flowsr-lp": version("flowsr-lp"), **model.libraries},
    }
