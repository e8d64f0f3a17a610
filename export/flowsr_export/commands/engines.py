"""The `engines` commands: list and prune the engines of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.command import Group
from flowsr_export.options.shared import flag, json_option, required_bundle_argument

if TYPE_CHECKING:
    from flowsr_export.engine.listing import Listed

__all__ = ["command"]


@click.group("engines", cls=Group)
def command() -> None:
    """List and prune the engines of a bundle.

    \b
    Example:
      flowsr-export engines list edsr.bundle
    """


@command.command("list")
@required_bundle_argument
@json_option
def list_command(bundle: Path, as_json: bool) -> None:
    """List the engines of BUNDLE with their targets and check them.

    A damaged engine ends with exit code 5.

    \b
    Example:
      flowsr-export engines list edsr.bundle
    """
    from flowsr_export.engine.listing import list_engines, record_of
    from flowsr_runtime import Bundle, IntegrityError

    listed = list_engines(Bundle.open(bundle))
    if as_json:
        rows = [{**record_of(engine.entry), "state": _state(engine)} for engine in listed]
        click.echo(json.dumps({"engines": rows}, indent=1))
    else:
        click.echo("\n".join(_text(engine) for engine in listed) or "no engine")
    damaged = [engine.trouble for engine in listed if engine.trouble is not None]
    if damaged:
        raise IntegrityError("; ".join(damaged))


@command.command("prune")
@required_bundle_argument
@flag("--all", "Remove every engine.", "everything")
@flag("--other-versions", "Also remove engines that the installed libraries do not load.")
@flag("--dry-run", "List the files without removing them.")
@json_option
def prune_command(
    bundle: Path, everything: bool, other_versions: bool, dry_run: bool, as_json: bool
) -> None:
    """Remove engines of BUNDLE that are damaged, incomplete or stale.

    An engine is stale when the bundle no longer has the ONNX file it was built from.

    \b
    Example:
      flowsr-export engines prune edsr.bundle --other-versions --dry-run
    """
    from flowsr_export.engine.listing import prune_engines
    from flowsr_runtime import Bundle

    choice = {"everything": everything, "other_versions": other_versions, "dry_run": dry_run}
    removals = prune_engines(Bundle.open(bundle), **choice)
    if as_json:
        rows = [
            {"name": file.name, "reason": file.reason, "bytes": file.size} for file in removals
        ]
        click.echo(json.dumps({"dry_run": dry_run, "removed": rows}, indent=1))
        return
    word = "would remove" if dry_run else "removed"
    for file in removals:
        click.echo(f"{word} {file.name}  {file.size / 1e6:.2f} MB, {file.reason}")
    total = sum(file.size for file in removals)
    click.echo(f"{word} {len(removals)} files, {total / 1e6:.2f} MB")


def _text(listed: Listed) -> str:
    from flowsr_export.engine.library import Target
    from flowsr_export.engine.listing import qualification_text

    entry, key = listed.entry, listed.entry.key
    target = Target(key.compute_capability, key.gpu_name)
    profiles = f"{len(key.profiles)} profile{'s' * (len(key.profiles) > 1)}"
    return (
        f"{_state(listed):8}{entry.name}  {entry.size / 1e6:.2f} MB\n"
        f"        {key.flavour} {key.version}, {key.precision}, {target}, {profiles}\n"
        f"        qualified: {qualification_text(entry)}"
    )


def _state(listed: Listed) -> str:
    if listed.trouble is not None:
        return "DAMAGED"
    return "stale" if listed.stale else "ok"
