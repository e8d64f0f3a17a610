"""The `fetch` command."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from flowsr_export.fetch import DEFAULT_BASE_URL, LICENCE_LINE, RELEASES, Fetched, fetch
from flowsr_export.options.progress import Progress, progress

__all__ = ["command"]


@click.command("fetch")
@click.argument("name", type=click.Choice([*RELEASES, "all"]))
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
    help="Address of the folder that holds the released files.",
)
def command(name: str, directory: Path, base_url: str) -> None:
    """Download a checkpoint that the authors released.

    A download that was cut off goes on where it stopped. A file is kept only if it is the
    released one, told by its git blob id.

    \b
    Example:
      flowsr-export fetch edsr-baseline-linf.pth -o checkpoints
    """
    click.echo(LICENCE_LINE, err=True)
    for file in RELEASES if name == "all" else [name]:
        done = _fetch(file, directory, base_url)
        click.echo(f"{done.path}  {done.size / 1e6:.1f} MB  {done.how}")


def _fetch(name: str, directory: Path, base_url: str) -> Fetched:
    """Fetch one file behind a progress bar, which begins with the download."""
    bars: list[Progress] = []
    with ExitStack() as stack:
        return fetch(
            name,
            directory,
            base_url,
            lambda total, done: bars.append(
                stack.enter_context(progress(f"fetching {name}", total, done))
            ),
            lambda size: bars[-1].advance(size),
        )
