"""The `fetch` command."""

from __future__ import annotations

from pathlib import Path

import click

from flowsr_export import fetch as library

__all__ = ["command"]


@click.command("fetch")
@click.argument("name", type=click.Choice([*library.RELEASES, "all"]))
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
    default=library.DEFAULT_BASE_URL,
    show_default=True,
    help="Address of the folder that holds the released files.",
)
def command(name: str, directory: Path, base_url: str) -> None:
    """Download the authors' released checkpoint NAME, or all of them.

    A download that was cut off goes on where it stopped. A file is kept only if it is the
    released one, told by its git blob id.

    \b
    Example:
      flowsr-export fetch edsr-baseline-linf.pth -o checkpoints
    """
    click.echo(library.LICENCE_LINE, err=True)
    for wanted in library.RELEASES if name == "all" else [name]:
        done = library.fetch(wanted, directory, base_url)
        click.echo(f"{done.path}  {done.size / 1e6:.1f} MB  {done.how}")
