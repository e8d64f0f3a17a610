"""The `reproduce` command."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from flowsr_export.options.command import Choice, Command
from flowsr_export.options.progress import progress
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    force_option,
    json_option,
)
from flowsr_export.options.speech import note

__all__ = ["command"]

NAMES = ("linf-lp", "linf-lp-arbitrary", "srflow-lp")


@click.command("reproduce", cls=Command)
@click.option(
    "--table",
    "tables",
    type=Choice(NAMES),
    multiple=True,
    show_default="all",
    help="Table of the paper; may be repeated.",
)
@click.option(
    "--weights",
    type=FILE,
    required=True,
    help="Folder of checkpoints under the names of `fetch`, and of weights of LPIPS and DISTS.",
)
@click.option(
    "--data",
    type=FILE,
    required=True,
    help="Folder with a folder of images for each set: DIV2K, Set5, Set14, B100, Urban100.",
)
@click.option(
    "--published",
    type=FILE,
    help="CSV file of the paper's values: table, method, set, scale, metric, value.",
)
@click.option(
    "--first", type=POSITIVE, help="Number of images of each set to use, for a trial."
)
@click.option("--threads", type=POSITIVE, help="Number of threads of PyTorch.")
@click.option("-o", "--output", type=FILE, help="Markdown file for the table.")
@force_option
@json_option
def command(
    tables: tuple[str, ...],
    weights: Path,
    data: Path,
    published: Path | None,
    first: int | None,
    threads: int | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compute the tables of the paper with the weights and the images that are there.

    Each table has its protocol, as for `evaluate --protocol`. What cannot be computed is listed
    with the file that is missing; if that is all, the exit code is 5. With --published the
    paper's value and the difference stand beside ours.

    \b
    Example:
      flowsr-export reproduce --weights checkpoints --data data --published paper.csv
    """
    from flowsr_export.evaluation.reproduce import (
        Figure,
        plan,
        published_values,
        reproduce,
        table_text,
    )
    from flowsr_export.reports.files import write_files
    from flowsr_runtime.errors import OutputError

    if output is not None and output.exists() and not force:
        raise OutputError(f"{output} exists; --force replaces it")
    known = {} if published is None else published_values(published)
    works, missing = plan(tables or NAMES, weights, data, first)
    figures: list[Figure] = []
    with progress("reproduce", sum(len(work.pairs) for work in works)) as bar:
        advance = partial(bar.advance, 1)
        for work in works:
            figures += reproduce(work, weights, known, threads=threads, advance=advance)
    text = table_text(figures, missing)
    if first is not None:
        note(f"only the first {first} images of each set: not the paper's figures")
    if output is not None:
        write_files({output: text})
    if as_json:
        record = {
            "figures": [asdict(figure) for figure in figures],
            "missing": [asdict(each) for each in missing],
        }
        click.echo(json.dumps(record, indent=1))
    else:
        click.echo(text, nl=False)
