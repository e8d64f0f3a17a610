"""The `upscale` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from flowsr_export.options import (
    force_option,
    json_option,
    parse_memory,
    parse_scale,
    parse_size,
    session_options,
)

if TYPE_CHECKING:
    from flowsr_export.batch import Report
    from flowsr_runtime import Bundle, SessionSettings

__all__ = ["command"]


@click.command("upscale")
@click.argument(
    "inputs", metavar="[BUNDLE] IN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File, or folder when there are several pictures.",
)
@click.option(
    "--scale",
    type=parse_scale,
    metavar="S|SxS",
    help="Times larger, at least 1; as in 2.7x3.6 for width and height apart. A bundle of one "
    "scale needs neither this nor --size.",
)
@click.option(
    "--size",
    type=parse_size,
    metavar="WxH",
    help="Output width and height in pixels, as in 1920x1080.",
)
@click.option(
    "--resample",
    is_flag=True,
    help="Let a bundle of one scale reach any other: a Lanczos filter after the model.",
)
@click.option(
    "--truncate",
    is_flag=True,
    help="Cut values down to 8 bits, as SRFlow's released script does; else they are rounded.",
)
@session_options
@click.option(
    "--memory-budget",
    type=parse_memory,
    metavar="BYTES",
    show_default="what the bundle states, or 1G",
    help="Memory for one run of the model; a picture that needs more is tiled.",
)
@click.option(
    "--halo",
    type=click.Choice(["default", "exact"]),
    default="default",
    show_default=True,
    help="Overlap of tiles: small, or as large as the model's receptive field.",
)
@click.option("--temperature", type=float, help="Of the noise; for bundles without a prior.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise.")
@force_option
@json_option
def command(
    inputs: tuple[Path, ...],
    output: Path,
    scale: str | tuple[str, str] | None,
    size: tuple[int, int] | None,
    resample: bool,
    truncate: bool,
    temperature: float | None,
    seed: int,
    force: bool,
    as_json: bool,
    settings: SessionSettings,
    memory_budget: int | None,
    halo: Literal["default", "exact"],
) -> None:
    """Enlarge the pictures IN: files, and folders of files.

    The first argument may be a bundle; without one the built-in model is used. A bad
    picture does not stop the others; each is named at the end and the exit code is not 0.
    A picture whose values lie far out of range is written, and a line says so; one with NaN
    or infinity is not.

    \b
    Examples:
      flowsr-export upscale photo.jpg -o large.png --scale 4
      flowsr-export upscale holiday/ -o large/ --size 1920x1080
      flowsr-export upscale srflow.bundle photo.jpg -o large.png
    """
    from flowsr_export.batch import STEPS, Request, enlarge_all, plan
    from flowsr_export.progress import progress
    from flowsr_runtime import Bundle, Upscaler, embedded_bundle

    path, pictures = _split(inputs)
    bundle = Bundle.open(path or embedded_bundle())
    _check_size(scale, size, bundle)
    jobs = plan(pictures, output)
    request = Request(scale, size, resample, truncate, seed, temperature, force)
    session = settings.open(bundle)
    upscaler = Upscaler(bundle, session, memory_budget=memory_budget, halo=halo)
    with upscaler, progress("enlarging", len(jobs) * STEPS) as bar:
        report = enlarge_all(jobs, upscaler, request, bar.advance)
    _print(report, as_json)
    click.get_current_context().exit(report.exit_code)


def _split(inputs: tuple[Path, ...]) -> tuple[Path | None, tuple[Path, ...]]:
    """Tell a bundle in front from the pictures."""
    if not (inputs[0] / "bundle.json").is_file():
        return None, inputs
    if len(inputs) == 1:
        raise click.UsageError(f"{inputs[0]} is a bundle; name the pictures after it")
    return inputs[0], inputs[1:]


def _check_size(
    scale: str | tuple[str, str] | None, size: tuple[int, int] | None, bundle: Bundle
) -> None:
    """Refuse, before the model is loaded, what no picture can be enlarged to."""
    from flowsr_runtime.geometry import exact_scale

    given = [option for option in (scale, size) if option is not None]
    own = bundle.manifest.scale is not None  # a bundle of one scale has a size of its own
    if len(given) > 1 or not (given or own):
        raise click.UsageError("give exactly one of --scale and --size")
    for factor in (scale,) if isinstance(scale, str) else scale or ():
        exact_scale(factor)


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), default=str, indent=2))
    else:
        for done in report.done:
            size = f"{done.width}x{done.height}"
            click.echo(f"{done.target}  {size}  {done.seconds:.2f} s")
    for done in report.done:
        if done.warning:
            click.echo(f"flowsr-export: {done.source}: {done.warning}", err=True)
    for failure in report.failures:
        click.echo(f"flowsr-export: {failure.reason}", err=True)
