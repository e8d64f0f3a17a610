"""The `evaluate` command."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.session import (
    evaluation_options,
    force_option,
    json_option,
    parse_memory,
    scale_type,
)

if TYPE_CHECKING:
    from flowsr_export.evaluation.metric_set import MetricSet
    from flowsr_export.evaluation.model import EvaluatedModel
    from flowsr_export.evaluation.run import Result, Row

__all__ = ["command"]

FILE = click.Path(path_type=Path)
METRICS = (
    *("psnr", "psnr-y", "ssim", "ssim-y", "lpips", "lr-psnr"),
    *("diversity", "diversity-score"),
)
SCALES = "2,3,4"


def parse_scales(value: str) -> tuple[str, ...]:
    """Read scales joined by commas, as in `2,2.7,4`; each is one number for both axes."""
    found = tuple(scale_type(text) for text in value.split(","))
    plain = tuple(scale for scale in found if isinstance(scale, str))
    if len(plain) != len(found) or len(set(plain)) != len(plain):
        raise click.BadParameter(f"{value!r} is not as in 2,2.7,4")
    return plain


@click.command("evaluate")
@click.argument("bundle", required=False, type=FILE)
@click.option(
    "--hr",
    multiple=True,
    required=True,
    type=FILE,
    help="Folder of original pictures; give it again for another set.",
)
@click.option(
    "--lr",
    multiple=True,
    type=FILE,
    show_default="the originals, shrunk by MATLAB's bicubic",
    help="Folder of their small partners, found by name.",
)
@click.option(
    "--scale",
    "scales",
    callback=lambda ctx, option, value: None if value is None else parse_scales(value),
    show_default=f"the bundle's own, or {SCALES}",
    help="Output pixels per input pixel, joined by commas; any real of at least 1.",
)
@click.option(
    "--metric",
    "metrics",
    type=click.Choice(METRICS),
    multiple=True,
    show_default="psnr to lr-psnr, and diversity with samples",
    help="Figure to compute; give it again for another.",
)
@click.option("--alexnet", type=FILE, help="AlexNet's weights, for LPIPS.")
@click.option("--lpips-weights", type=FILE, help="LPIPS's own weights, v0.1.")
@click.option(
    "--shave",
    type=click.IntRange(min=0),
    show_default="the published rules",
    help="Pixels left out on every side for PSNR and SSIM.",
)
@click.option(
    "--baseline",
    type=click.Choice(["bicubic", "none"]),
    default="bicubic",
    show_default=True,
    help="What is evaluated beside the bundle.",
)
@click.option("--temperature", type=float, help="Of the noise; for bundles without a prior.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pictures from noise, whose figures are averaged.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the first sample.")
@click.option("--truncate", is_flag=True, help="Cut values down to 8 bits, as SRFlow's script.")
@evaluation_options
@click.option("--model", type=FILE, help="Checkpoint of a flow, for --backend torch.")
@click.option("--prior", type=FILE, help="Checkpoint of its latent module.")
@click.option(
    "--memory-budget",
    type=parse_memory,
    metavar="BYTES",
    show_default="what the bundle states, or 1G",
    help="Memory for one run of the model; a picture that needs more is tiled.",
)
@click.option(
    "--halo",
    type=click.Choice(["default", "exact"]),
    default="default",
    show_default=True,
    help="Overlap of tiles.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    help="Folder, or name without suffix, of .csv, .json, .md and .png.",
)
@force_option
@json_option
def command(output: Path | None, force: bool, as_json: bool, **asked: Any) -> None:
    """Measure the quality of BUNDLE on pictures whose originals are there.

    Every original is shrunk (or its partner taken), enlarged and compared: PSNR, SSIM, LPIPS,
    agreement with the input, diversity over samples, by the published protocols. Without
    BUNDLE it is the built-in one; --backend torch evaluates a checkpoint that was not exported.
    A figure that cannot be computed ends with exit code 3.

    \b
    Examples:
      flowsr-export evaluate --hr Set5 --metric psnr-y --metric ssim-y
      flowsr-export evaluate --hr Set5 --lr Set5 --alexnet a.pth --lpips-weights l.pth -o set5
      flowsr-export evaluate flow.bundle --hr DIV2K --temperature 0.8 --samples 5 --metric psnr
    """
    from flowsr_export.evaluation.metric_set import MetricSet
    from flowsr_export.evaluation.model import open_model
    from flowsr_export.evaluation.report import as_json as as_object
    from flowsr_export.evaluation.report import as_markdown, report_paths, write_report
    from flowsr_export.evaluation.sheet import sheet_of

    paths = [] if output is None else report_paths(output, force=force)
    asked["metrics"] = asked["metrics"] or _default_metrics(asked["samples"])
    metric_set = MetricSet.open(
        asked["metrics"],
        shave=asked["shave"],
        alexnet=asked["alexnet"],
        linear=asked["lpips_weights"],
    )
    with open_model(
        asked["settings"],
        asked["bundle"],
        asked["model"],
        asked["prior"],
        temperature=asked["temperature"],
        truncate=asked["truncate"],
        memory_budget=asked["memory_budget"],
        halo=asked["halo"],
    ) as subject:
        rows, shown = _evaluated(asked, metric_set, subject)
    about = _about(asked, subject)
    if paths:
        write_report(rows, about, sheet_of(shown), paths)
    for row in rows:
        for line in row.warnings:
            name = f"{row.dataset} {row.picture} ×{row.scale}"
            click.echo(f"flowsr-export: {name}: {line}", err=True)
    if as_json:
        found = as_object(rows, about)
        click.echo(json.dumps({"files": [str(path) for path in paths], **found}))
        return
    click.echo(as_markdown(rows, about), nl=False)
    if paths:
        click.echo(f"\nwritten: {', '.join(str(path) for path in paths)}")


def _default_metrics(samples: int) -> tuple[str, ...]:
    from flowsr_export.evaluation.metric_set import DEFAULT_METRICS

    return DEFAULT_METRICS if samples == 1 else (*DEFAULT_METRICS, "diversity")


def _evaluated(
    asked: dict[str, Any], metric_set: MetricSet, subject: EvaluatedModel
) -> tuple[list[Row], list[Result]]:
    """Evaluate with a bar; keep every row, and the pictures that the sheet shows."""
    from flowsr_export.evaluation.dataset import find_pairs
    from flowsr_export.evaluation.model import BICUBIC
    from flowsr_export.evaluation.run import check_pairs, evaluate
    from flowsr_export.evaluation.sheet import chosen
    from flowsr_export.options.progress import progress

    asked["scales"] = asked["scales"] or (subject.scale or SCALES).split(",")
    subject.check_scales(asked["scales"])
    pairs = find_pairs(asked["hr"], asked["lr"], asked["scales"])
    with progress("reading", len(pairs)) as bar:
        check_pairs(pairs, metric_set, lambda note: bar.advance(1, note))
    baselines = [BICUBIC] if asked["baseline"] == "bicubic" else []
    methods = [*baselines, subject]
    wanted = {(pair.dataset, pair.name, pair.scale) for pair in chosen(pairs)}
    rows, shown = [], []
    with progress("evaluate", len(pairs) * len(methods)) as steps:
        for result in evaluate(
            pairs,
            methods,
            metric_set,
            samples=asked["samples"],
            seed=asked["seed"],
            advance=lambda note: steps.advance(1, note),
        ):
            row = result.row
            rows.append(row)
            if (row.dataset, row.picture, row.scale) in wanted:
                shown.append(result)
    return rows, shown


def _about(asked: dict[str, Any], subject: EvaluatedModel) -> dict[str, Any]:
    """Say what was evaluated and how."""
    from importlib.metadata import version

    settings = asked["settings"]
    return {
        "command": shlex.join(["flowsr-export", *sys.argv[1:]]),
        "model": subject.about,
        "settings": {
            "hr": [str(folder) for folder in asked["hr"]],
            "lr": [str(folder) for folder in asked["lr"]],
            "scales": list(asked["scales"]),
            "shave": asked["shave"],
            "backend": settings.backend,
            "provider": subject.provider,
            "precision": settings.precision,
            "temperature": asked["temperature"],
            "samples": asked["samples"],
            "seed": asked["seed"],
            "truncate": asked["truncate"],
        },
        "libraries": {"flowsr-lp": version("flowsr-lp"), **subject.libraries},
    }
