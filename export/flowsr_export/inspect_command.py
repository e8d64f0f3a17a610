"""The `inspect` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options import json_option

if TYPE_CHECKING:
    from flowsr_export.inspection import Inspection

__all__ = ["command"]


@click.command("inspect")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@json_option
def command(bundle: Path | None, as_json: bool) -> None:
    """Check BUNDLE and print what it holds.

    Without BUNDLE it is the built-in one. A damaged file ends with exit code 5.

    \b
    Example:
      flowsr-export inspect
    """
    from flowsr_export.inspection import inspect_bundle
    from flowsr_runtime.errors import IntegrityError

    found = inspect_bundle(bundle)
    if as_json:
        click.echo(json.dumps(_as_dict(found), indent=2))
    else:
        _print(found)
    if found.damaged:
        raise IntegrityError("; ".join(found.damaged))


def _as_dict(found: Inspection) -> dict[str, object]:
    files = {name: trouble or "ok" for name, trouble in found.troubles.items()}
    manifest = found.bundle.manifest
    return {"path": str(found.bundle.path), "files": files, "manifest": dict(manifest.raw)}


def _print(found: Inspection) -> None:
    from flowsr_export.inspection import summary

    manifest = found.bundle.manifest
    rows = summary(manifest)
    width = max(len(heading) for heading, _ in rows) + 2
    click.echo(f"{'bundle':{width}}{found.bundle.path}")
    for heading, text in rows:
        click.echo(f"{heading:{width}}{text}".rstrip())
    click.echo("files")
    for name, trouble in found.troubles.items():
        entry = manifest.files[name]
        state = "ok" if trouble is None else "DAMAGED"
        about = f"{entry.bytes / 1e6:8.2f} MB  {entry.precision or ''}"
        click.echo(f"  {state:9}{name:28}{about}".rstrip())
