"""The `fetch` command."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import click

from flowsr_export.fetch import DEFAULT_BASE_URL, LICENSE_LINE, RELEASES, fetch
from flowsr_export.options.command import Choice, Command
from flowsr_export.options.progress import counted_progress
from flowsr_export.options.shared import PathName, json_option
from flowsr_export.options.speech import note

__all__ = ["command"]


@click.command("fetch", cls=Command)
@click.argument("name", metavar="NAME", type=Choice([*RELEASES, "all"]))
@click.option(
    "-o",
    "--output",
    "directory",
    type=PathName(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the files.",
)
@click.option(
    "--base-url",
    default=DEFAULT_BASE_URL,
    show_default=True,
    help="URL of the folder with the released files.",
)
@json_option
def command(name: str, directory: Path, base_url: str, as_json: bool) -> None:
    """Download a checkpoint released by the authors.

    An interrupted download resumes. A file is kept only if its git blob id is that of the
    released file.

    \b
    Example:
      flowsr-export fetch edsr-baseline-linf.pth -o checkpoints
    """
    files = []
    for file in RELEASES if name == "all" else [name]:
        with counted_progress(f"fetching {file}") as (start, advance):
            fetched = fetch(file, directory, base_url, start, partial(advance, ""))
        files.append({"path": str(fetched.path), "bytes": fetched.size, "how": fetched.how})
        if not as_json:
            click.echo(f"{fetched.path}  {fetched.size / 1e6:.1f} MB  {fetched.how}")
    note(LICENSE_LINE)
    if as_json:
        click.echo(json.dumps({"license": LICENSE_LINE, "files": files}, indent=1))
