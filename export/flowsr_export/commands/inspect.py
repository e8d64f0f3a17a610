"""The `inspect` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from flowsr_export.options.engine import flavour_option
from flowsr_export.options.session import json_option

if TYPE_CHECKING:
    from flowsr_export.commands.inspection import Inspection
    from flowsr_export.engine.library import TensorrtVariant

__all__ = ["command"]


@click.command("inspect")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--engine", is_flag=True, help="Say which engines load here, and why not others.")
@flavour_option
@click.option(
    "--precision",
    type=click.Choice(["fp16", "fp32", "bf16", "int8", "fp8"]),
    default="fp16",
    show_default=True,
    help="Of the engine, with --engine.",
)
@click.option(
    "--compute-capability",
    metavar="N.N",
    show_default="the GPU's that is here",
    help="Of a GPU that is not here, as in 8.9, with --engine.",
)
@json_option
def command(
    bundle: Path | None,
    engine: bool,
    flavour: str,
    precision: str,
    compute_capability: str | None,
    as_json: bool,
) -> None:
    """Check BUNDLE and print what it holds.

    Without BUNDLE it is the built-in one. A damaged file ends with exit code 5, and so does
    --engine if no engine loads.

    \b
    Examples:
      flowsr-export inspect
      flowsr-export inspect edsr.bundle --engine --compute-capability 8.9
    """
    from flowsr_export.commands.inspection import inspect_bundle
    from flowsr_runtime.errors import IntegrityError

    if engine:
        _match(
            bundle,
            cast("TensorrtVariant", flavour.replace("-", "_")),
            precision,
            compute_capability,
            as_json,
        )
        return

    found = inspect_bundle(bundle)
    if as_json:
        click.echo(json.dumps(_as_dict(found), indent=2))
    else:
        _print(found)
    if found.damaged:
        raise IntegrityError("; ".join(found.damaged))


def _match(
    path: Path | None,
    flavour: TensorrtVariant,
    precision: str,
    compute_capability: str | None,
    as_json: bool,
) -> None:
    """Say which engines load on a device, and field by field why the others do not."""
    from flowsr_export.engine.listing import match_engines
    from flowsr_runtime import Bundle, BundleError, embedded_bundle

    bundle = Bundle.open(embedded_bundle() if path is None else path)
    match = match_engines(bundle, flavour, precision, compute_capability)
    if as_json:
        rows = [dataclasses.asdict(each) for each in match.differences]
        found = {
            "library": match.library,
            "compute_capability": match.compute_capability,
            "precision": match.precision,
            "loads": [entry.name for entry in match.loads],
            "differences": rows,
        }
        click.echo(json.dumps(found, indent=1))
    else:
        for entry in match.loads:
            click.echo(f"loads      {entry.name}")
        for name in dict.fromkeys(each.name for each in match.differences):
            click.echo(f"does not   {name}")
            for each in (each for each in match.differences if each.name == name):
                click.echo(f"  {each.field:20}is {each.found}, wanted {each.wanted}")
    if not match.loads:
        raise BundleError(
            f"no engine of {bundle.path} loads in {match.library} on compute capability "
            f"{match.compute_capability} in {precision}; build one with flowsr-export "
            "build-engine"
        )


def _as_dict(found: Inspection) -> dict[str, object]:
    files = {name: trouble or "ok" for name, trouble in found.troubles.items()}
    manifest = found.bundle.manifest
    return {"path": str(found.bundle.path), "files": files, "manifest": dict(manifest.raw)}


def _print(found: Inspection) -> None:
    from flowsr_export.commands.inspection import summary

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
