"""The `upscale` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.advice import advised
from flowsr_export.options.command import Command
from flowsr_export.options.progress import item_lines, progress
from flowsr_export.options.session import session_options
from flowsr_export.options.shared import FILE, flag, json_option, open_bundle
from flowsr_export.options.speech import note, program
from flowsr_export.options.upscale import cluster_options, machine_options, request_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsr_export.upscale.dry_run import PlannedUpscale
    from flowsr_export.upscale.jobs import Failure, Job, Report, Request
    from flowsr_export.upscale.ray import Cluster
    from flowsr_runtime import Bundle

__all__ = ["command"]

DEFAULT = click.core.ParameterSource.DEFAULT
GIB = 1 << 30


@click.command("upscale", cls=Command)
@click.argument("inputs", metavar="[BUNDLE] IN...", nargs=-1, required=True, type=FILE)
@click.option("--bundle", type=FILE, help="Bundle, instead of the first argument.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=FILE,
    help="Output file, or output folder for several images.",
)
@request_options
@session_options
@machine_options
@cluster_options
@flag("--dry-run", "Print tiles and memory of each image without writing anything.")
@json_option
def command(
    inputs: tuple[Path, ...],
    bundle: Path | None,
    output: Path,
    request: Request,
    machine: dict[str, Any],
    cluster: Cluster | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upscale the images IN: files, and folders of files.

    The first argument may be a bundle; the default is the built-in model. A failed image
    does not stop the others: each failure is reported at the end and makes the exit code
    nonzero. An image with values far out of range is written with a warning; one with NaN
    or infinity is not written. Reading, upscaling and writing overlap, unless --max-memory
    is given. If memory runs out, tiles are halved.

    \b
    Examples:
      flowsr-export upscale photo.jpg -o large.png --scale 4
      flowsr-export upscale holiday/ -o large/ --size 1920x1080
      flowsr-export upscale poster.png -o huge.png --scale 4 --halo exact --max-memory 2G
      flowsr-export upscale srflow.bundle photo.jpg -o large.png
      flowsr-export upscale archive/ -o large/ --scale 4 --ray
    """
    from flowsr_export.upscale.jobs import plan

    context = click.get_current_context()
    if machine["devices"] is not None and context.get_parameter_source("device") != DEFAULT:
        raise click.UsageError("give at most one of --device and --devices")
    path, images = (bundle, inputs) if bundle is not None else _split(inputs)
    opened = open_bundle(path)
    _check_size(request, opened)
    jobs = plan(images, output, make=not dry_run)
    if dry_run:
        from flowsr_export.upscale.devices import open_upscalers
        from flowsr_export.upscale.dry_run import plan_all

        with open_upscalers(opened, **machine) as upscalers:
            exit_code = _print_plan(*plan_all(jobs, upscalers[0], request), as_json)
    else:
        report = _upscale(opened, jobs, request, machine, cluster)
        _print(report, as_json)
        exit_code = report.exit_code
    context.exit(exit_code)


def _split(inputs: tuple[Path, ...]) -> tuple[Path | None, tuple[Path, ...]]:
    """Separate a leading bundle from the images."""
    if not (inputs[0] / "bundle.json").is_file():
        return None, inputs
    if len(inputs) == 1:
        raise click.UsageError(f"{inputs[0]} is a bundle; name the images after it")
    return inputs[0], inputs[1:]


def _check_size(request: Request, bundle: Bundle) -> None:
    """Check scale and size before the model is loaded."""
    from flowsr_runtime.geometry import exact_scale

    scale = request.scale
    given = [option for option in (scale, request.size) if option is not None]
    if len(given) > 1 or not (given or bundle.manifest.scale is not None):
        raise click.UsageError("give exactly one of --scale and --size")
    for factor in (scale,) if isinstance(scale, str) else scale or ():
        exact_scale(factor)


def _upscale(
    bundle: Bundle,
    jobs: Sequence[Job],
    request: Request,
    machine: dict[str, Any],
    cluster: Cluster | None,
) -> Report:
    from flowsr_export.upscale.devices import is_on_host, open_upscalers
    from flowsr_export.upscale.pipeline import STEPS, upscale_all

    if cluster is not None:
        return _upscale_on_ray(bundle, jobs, request, machine, cluster)
    with (
        open_upscalers(bundle, **machine) as upscalers,
        progress("upscaling", len(jobs) * STEPS) as bar,
    ):
        overlap = machine["max_memory"] is None or not is_on_host(machine["settings"])
        line = item_lines(len(jobs))
        return upscale_all(
            jobs, upscalers, request, bar.advance, finished=line, overlap=overlap
        )


def _upscale_on_ray(
    bundle: Bundle,
    jobs: Sequence[Job],
    request: Request,
    machine: dict[str, Any],
    cluster: Cluster,
) -> Report:
    from flowsr_export.upscale.ray import WorkerConfig, upscale_on_ray

    if machine.pop("devices") is not None:
        raise click.UsageError("--devices is not for --ray; Ray assigns a GPU to each worker")
    config = WorkerConfig(bundle.path, request=request, **machine)
    line = item_lines(len(jobs))
    with progress("upscaling", len(jobs)) as bar:

        def tell(steps: int, name: str) -> None:
            bar.advance(steps, name)
            if name:
                line(name)

        return upscale_on_ray(jobs, config, cluster, tell)


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        figures = {
            "pictures": len(report.done),
            "megapixels": round(report.megapixels, 6),
            "megapixels_per_second": round(report.megapixels_per_second, 6),
        }
        click.echo(json.dumps({**dataclasses.asdict(report), **figures}, default=str, indent=2))
    else:
        for done in report.done:
            size = f"{done.width}x{done.height}"
            click.echo(f"{done.target}  {size}  {done.seconds:.2f} s")
        if report.done or report.skipped:
            click.echo(_summary(report))
    for done in report.done:
        if done.warning:
            note(f"{done.source}: {done.warning}")
    _print_failures(report.failures)


def _summary(report: Report) -> str:
    """Return a one-line summary of the batch."""
    count = len(report.done)
    parts = [
        f"{count} image{'' if count == 1 else 's'}, {report.megapixels:.1f} megapixels "
        f"in {report.seconds:.1f} s, {report.megapixels_per_second:.2f} megapixels/s"
    ]
    if report.skipped:
        parts.append(f"{len(report.skipped)} skipped because they exist")
    if report.peak_bytes is not None:
        parts.append(f"{report.peak_bytes / GIB:.2f} GiB peak memory")
    return "; ".join(parts)


def _print_plan(
    planned: Sequence[PlannedUpscale], failures: Sequence[Failure], as_json: bool
) -> int:
    """Print a dry run and return the exit code."""
    from flowsr_export.upscale.jobs import Report

    if as_json:
        rows = {
            "planned": [dataclasses.asdict(upscale) for upscale in planned],
            "failures": [dataclasses.asdict(failure) for failure in failures],
        }
        click.echo(json.dumps(rows, default=str, indent=2))
    else:
        for upscale in planned:
            tiles = f"{upscale.tiles} tile{'' if upscale.tiles == 1 else 's'}"
            memory = (
                f"{upscale.peak_bytes / GIB:.2f} GiB, {upscale.run_bytes / GIB:.2f} per run"
            )
            size = f"{upscale.width}x{upscale.height}"
            click.echo(f"{upscale.target}  {size}  {tiles} of {upscale.largest}  {memory}")
    _print_failures(failures)
    return Report((), tuple(failures)).exit_code


def _print_failures(failures: Sequence[Failure]) -> None:
    command = click.get_current_context().command
    for failure in failures:
        line = advised(command, failure.reason, failure.option, failure.build)
        click.echo(f"{program()}: {line}", err=True)
