"""The `fetch` command."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from flowsr_export.fetch import DEFAULT_BASE_URL, LICENSE_LINE, RELEASES, fetch
from flowsr_export.options.progress import counted_progress

__all__ = ["command"]


@click.command("fetch")
@click.argument("name", metavar="NAME", type=click.Choice([*RELEASES, "all"]))
@click.option(
    "-o",
    "--output",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the files.",
)
@click.option(
    "--base-url",
    default=DEFAULT_BASE_URL,
    show_default=True,
    help="URL of the folder with the released files.",
)
def command(name: str, directory: Path, base_url: str) -> None:
    """Download a checkpoint released by the authors.

    An interrupted download resumes. A file is kept only if its git blob id is that of the
    released file.

    \b
    Example:
      flowsr-export fetch edsr-baseline-linf.pth -o checkpoints
    """
    click.echo(LICENSE_LINE, err=True)
    for file in RELEASES if name == "all" else [name]:
        with counted_progress(f"fetching {file}") as (start, advance):
            fetched = fetch(file, directory, base_url, start, partial(advance, ""))
        click.echo(f"{fetched.path}  {fetched.size / 1e6:.1f} MB  {fetched.how}")
