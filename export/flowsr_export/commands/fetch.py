"""The `fetch` command."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from flowsr_export.fetch.releases import RELEASES, Drive, Member, Page, Release
from flowsr_export.options.command import Choice, Command
from flowsr_export.options.progress import counted_progress
from flowsr_export.options.shared import PathName, flag, json_option
from flowsr_export.options.speech import note

__all__ = ["command"]

ALL = "all"


class FileName(Choice):
    """The name of a released file."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return the message for a name that is none of them: they are too many for a line."""
        return f"{value!r} is not one of the files that fetch --list shows"


@click.command("fetch", cls=Command)
@click.argument("name", metavar="NAME", type=FileName([*RELEASES, ALL]), required=False)
@click.option(
    "-o",
    "--output",
    "directory",
    type=PathName(path_type=Path, file_okay=False),
    help="Folder for the files.",
)
@click.option(
    "--base-url",
    show_default="the places of each file",
    help="URL of a folder with the files, such as a mirror.",
)
@flag("--list", "Print every file with its size, license and check.", "listed")
@json_option
def command(
    name: str | None, directory: Path | None, base_url: str | None, listed: bool, as_json: bool
) -> None:
    """Download a released checkpoint, or weights that metrics and training need.

    An interrupted download resumes. A file is kept only if it is the released one, by its hash
    where that is known. A file without an address of its own is named with the page that links
    to it. `all` downloads the checkpoints of LINF-LP whose hashes are known.

    \b
    Examples:
      flowsr-export fetch --list
      flowsr-export fetch edsr-baseline-linf.pth -o checkpoints
    """
    if listed:
        _print_list(as_json=as_json)
        return
    if name is None or directory is None:
        missing = "NAME" if name is None else "--output"
        raise click.UsageError(f"{missing} is missing; fetch --list shows every file")
    from flowsr_export.fetch.download import fetch

    names = [name]
    if name == ALL:
        names = [key for key, release in RELEASES.items() if release.blob is not None]
    files = []
    for file in names:
        with counted_progress(f"fetching {file}") as (start, advance):
            fetched = fetch(file, directory, base_url, start, partial(advance, ""))
        files.append({"path": str(fetched.path), "bytes": fetched.size, "how": fetched.how})
        if not as_json:
            click.echo(f"{fetched.path}  {fetched.size / 1e6:.1f} MB  {fetched.how}")
    licenses = {file: RELEASES[file].license for file in names}
    for text in dict.fromkeys(licenses.values()):
        owned = ", ".join(file for file in names if licenses[file] == text)
        note(f"not this project's license: {owned}: {text}")
    if as_json:
        click.echo(json.dumps({"licenses": licenses, "files": files}, indent=1))


def _print_list(*, as_json: bool) -> None:
    """Print what is known of every file."""
    entries = [_described(name, release) for name, release in RELEASES.items()]
    if as_json:
        click.echo(json.dumps({"files": entries}, indent=1))
        return
    for entry in entries:
        size = "size unknown" if entry["megabytes"] is None else f"{entry['megabytes']:g} MB"
        click.echo(f"{entry['name']}  {size}  {entry['what']}")
        click.echo(f"    from {entry['from']}")
        click.echo(f"    license: {entry['license']}; check: {entry['check']}")
    click.echo("sizes are computed from the parameters; no file was downloaded by this project")


def _described(name: str, release: Release) -> dict[str, Any]:
    """Describe a file."""
    source = release.source
    if isinstance(source, Page):
        place = f"{source.url}, by hand: its link {source.link}"
    elif isinstance(source, Drive):
        place = f"Google Drive, file {source.id}"
    elif isinstance(source, Member):
        place = f"{source.url}, one file of it"
    else:
        place = source.urls[0]
    return {
        "name": name,
        "what": release.what,
        "megabytes": release.megabytes,
        "license": release.license,
        "from": place,
        "check": release.check,
        "verified": False,
    }
