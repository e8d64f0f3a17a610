"""The `engines` commands: what a bundle holds, and what of it can go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.session import json_option

if TYPE_CHECKING:
    from flowsr_export.engine.listing import Listed

__all__ = ["command"]

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))


@click.group("engines")
def command() -> None:
    """List and prune the TensorRT engines of a bundle.

    \b
    Example:
      flowsr-export engines list edsr.bundle
    """


@command.command("list")
@BUNDLE
@json_option
def list_command(bundle: Path, as_json: bool) -> None:
    """Check the engines of BUNDLE and print what they are for.

    A damaged engine ends with exit code 5.

    \b
    Example:
      flowsr-export engines list edsr.bundle
    """
    from flowsr_export.engine.listing import list_engines
    from flowsr_runtime import Bundle, IntegrityError

    listed = list_engines(Bundle.open(bundle))
    if as_json:
        click.echo(json.dumps([_described(each) for each in listed], indent=1))
    else:
        click.echo("\n".join(_text(each) for each in listed) or "no engine")
    damaged = [each.trouble for each in listed if each.trouble is not None]
    if damaged:
        raise IntegrityError("; ".join(damaged))


@command.command("prune")
@BUNDLE
@click.option("--all", "everything", is_flag=True, help="Remove every engine.")
@click.option(
    "--other-versions",
    is_flag=True,
    help="Remove those, too, that the libraries installed here do not load.",
)
@click.option("--dry-run", is_flag=True, help="Remove nothing, only say what would go.")
@json_option
def prune_command(
    bundle: Path, everything: bool, other_versions: bool, dry_run: bool, as_json: bool
) -> None:
    """Remove engines of BUNDLE that are damaged, half written or of a graph that is gone.

    \b
    Example:
      flowsr-export engines prune edsr.bundle --other-versions --dry-run
    """
    from flowsr_export.engine.listing import prune_engines
    from flowsr_runtime import Bundle

    removals = prune_engines(
        Bundle.open(bundle),
        everything=everything,
        other_versions=other_versions,
        dry_run=dry_run,
    )
    if as_json:
        rows = [
            {"name": each.name, "reason": each.reason, "bytes": each.size} for each in removals
        ]
        click.echo(json.dumps({"dry_run": dry_run, "removed": rows}, indent=1))
        return
    word = "would remove" if dry_run else "removed"
    for each in removals:
        click.echo(f"{word} {each.name}  {each.size / 1e6:.2f} MB, {each.reason}")
    total = sum(each.size for each in removals)
    click.echo(f"{word} {len(removals)} files, {total / 1e6:.2f} MB")


def _described(listed: Listed) -> dict[str, Any]:
    entry = listed.entry
    return {
        "engine": entry.name,
        "bytes": entry.size,
        "sha256": entry.sha256,
        "state": _state(listed),
        "key": entry.key.fields(),
        "facts": dict(entry.facts),
    }


def _text(listed: Listed) -> str:
    entry, key = listed.entry, listed.entry.key
    devices = ", ".join(key.compute_capability) or "8.0 and above"
    gpu = f" {key.gpu_name}" if key.gpu_name else ""
    profiles = "1 profile" if len(key.profiles) == 1 else f"{len(key.profiles)} profiles"
    return (
        f"{_state(listed):8}{entry.name}  {entry.size / 1e6:.2f} MB\n"
        f"        {key.flavour} {key.version}, {key.precision}, compute capability {devices}"
        f"{gpu}, {profiles}"
    )


def _state(listed: Listed) -> str:
    if listed.trouble is not None:
        return "DAMAGED"
    return "stale" if listed.stale else "ok"
