"""The `upscale` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flowsr_export.options.session import json_option
from flowsr_export.options.upscale import cluster_options, machine_options, request_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsr_export.upscale.dry_run import PlannedUpscale
    from flowsr_export.upscale.jobs import Failure, Job, Report, Request
    from flowsr_export.upscale.ray import Cluster
    from flowsr_runtime import Bundle, SessionSettings

__all__ = ["command"]

DEFAULT = click.core.ParameterSource.DEFAULT
GIB = 1 << 30


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
@request_options
@machine_options
@cluster_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say how each picture would be cut and what memory that takes; write nothing.",
)
@json_option
def command(
    inputs: tuple[Path, ...],
    output: Path,
    request: Request,
    settings: SessionSettings,
    devices: tuple[int, ...] | None,
    max_memory: int | None,
    halo: Literal["default", "exact"],
    cluster: Cluster | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Enlarge the pictures IN: files, and folders of files.

    The first argument may be a bundle; without one the built-in model is used. A bad
    picture does not stop the others; each is named at the end and the exit code is not 0.
    A picture whose values lie far out of range is written, and a line says so; one with NaN
    or infinity is not. While one picture is computed the next is read and the one before is
    written, unless --max-memory is given. Where memory runs out the tiles are halved.

    \b
    Examples:
      flowsr-export upscale photo.jpg -o large.png --scale 4
      flowsr-export upscale holiday/ -o large/ --size 1920x1080
      flowsr-export upscale poster.png -o huge.png --scale 4 --halo exact --max-memory 2G
      flowsr-export upscale srflow.bundle photo.jpg -o large.png
      flowsr-export upscale archive/ -o large/ --scale 4 --ray
    """
    from flowsr_export.upscale.jobs import plan
    from flowsr_runtime import Bundle, embedded_bundle

    context = click.get_current_context()
    if devices is not None and context.get_parameter_source("device") != DEFAULT:
        raise click.UsageError("give at most one of --device and --devices")
    path, pictures = _split(inputs)
    bundle = Bundle.open(path or embedded_bundle())
    _check_size(request, bundle)
    jobs = plan(pictures, output, make=not dry_run)
    machine = _Machine(bundle, settings, devices, max_memory, halo)
    if dry_run:
        exit_code = _print_plan(*_dry_run(jobs, request, machine), as_json)
    else:
        report = _enlarge(jobs, request, machine, cluster)
        _print(report, as_json)
        exit_code = report.exit_code
    context.exit(exit_code)


@dataclasses.dataclass(frozen=True)
class _Machine:
    """A bundle and on what it is run."""

    bundle: Bundle
    settings: SessionSettings
    devices: tuple[int, ...] | None
    max_memory: int | None
    halo: Literal["default", "exact"]


def _split(inputs: tuple[Path, ...]) -> tuple[Path | None, tuple[Path, ...]]:
    """Tell a bundle in front from the pictures."""
    if not (inputs[0] / "bundle.json").is_file():
        return None, inputs
    if len(inputs) == 1:
        raise click.UsageError(f"{inputs[0]} is a bundle; name the pictures after it")
    return inputs[0], inputs[1:]


def _check_size(request: Request, bundle: Bundle) -> None:
    """Refuse, before the model is loaded, what no picture can be enlarged to."""
    from flowsr_runtime.geometry import exact_scale

    scale = request.scale
    given = [option for option in (scale, request.size) if option is not None]
    own = bundle.manifest.scale is not None  # a bundle of one scale has a size of its own
    if len(given) > 1 or not (given or own):
        raise click.UsageError("give exactly one of --scale and --size")
    for factor in (scale,) if isinstance(scale, str) else scale or ():
        exact_scale(factor)


def _enlarge(
    jobs: Sequence[Job], request: Request, machine: _Machine, cluster: Cluster | None
) -> Report:
    from flowsr_export.options.progress import progress
    from flowsr_export.upscale.devices import is_on_host, open_upscalers
    from flowsr_export.upscale.pipeline import STEPS, enlarge_all

    if cluster is not None:
        return _enlarge_on_ray(jobs, request, machine, cluster)
    options: dict[str, Any] = {"max_memory": machine.max_memory, "halo": machine.halo}
    with (
        open_upscalers(machine.bundle, machine.settings, machine.devices, **options) as opened,
        progress("enlarging", len(jobs) * STEPS) as bar,
    ):
        overlap = machine.max_memory is None or not is_on_host(machine.settings)
        return enlarge_all(jobs, opened, request, bar.advance, overlap=overlap)


def _enlarge_on_ray(
    jobs: Sequence[Job], request: Request, machine: _Machine, cluster: Cluster
) -> Report:
    from flowsr_export.options.progress import progress
    from flowsr_export.upscale.ray import WorkerConfig, enlarge_on_ray

    if machine.devices is not None:
        raise click.UsageError("--devices is for this machine; Ray gives each worker its GPU")
    config = WorkerConfig(
        machine.bundle.path, machine.settings, request, machine.max_memory, machine.halo
    )
    with progress("enlarging", len(jobs)) as bar:
        return enlarge_on_ray(jobs, config, cluster, bar.advance)


def _dry_run(
    jobs: Sequence[Job], request: Request, machine: _Machine
) -> tuple[list[PlannedUpscale], list[Failure]]:
    from flowsr_export.upscale.devices import open_upscalers
    from flowsr_export.upscale.dry_run import plan_all

    options: dict[str, Any] = {"max_memory": machine.max_memory, "halo": machine.halo}
    with open_upscalers(machine.bundle, machine.settings, machine.devices, **options) as opened:
        return plan_all(jobs, opened[0], request)


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
            click.echo(f"flowsr-export: {done.source}: {done.warning}", err=True)
    _print_failures(report.failures)


def _summary(report: Report) -> str:
    """Return one line on the whole batch."""
    count = len(report.done)
    parts = [
        f"{count} picture{'' if count == 1 else 's'}, {report.megapixels:.1f} megapixels "
        f"in {report.seconds:.1f} s, {report.megapixels_per_second:.2f} megapixels/s"
    ]
    if report.skipped:
        parts.append(f"{len(report.skipped)} skipped, which were there")
    if report.peak_bytes is not None:
        parts.append(f"{report.peak_bytes / GIB:.2f} GiB at the peak")
    return "; ".join(parts)


def _print_plan(
    planned: Sequence[PlannedUpscale], failures: Sequence[Failure], as_json: bool
) -> int:
    """Print what would be done, and return the exit code."""
    from flowsr_export.upscale.jobs import Report

    if as_json:
        rows = {
            "planned": [dataclasses.asdict(each) for each in planned],
            "failures": [dataclasses.asdict(each) for each in failures],
        }
        click.echo(json.dumps(rows, default=str, indent=2))
    else:
        for each in planned:
            tiles = f"{each.tiles} tile{'' if each.tiles == 1 else 's'} of {each.largest}"
            memory = f"{each.peak_bytes / GIB:.2f} GiB, {each.run_bytes / GIB:.2f} of it a run"
            click.echo(f"{each.target}  {each.width}x{each.height}  {tiles}  {memory}")
    _print_failures(failures)
    return Report((), tuple(failures)).exit_code


def _print_failures(failures: Sequence[Failure]) -> None:
    for failure in failures:
        click.echo(f"flowsr-export: {failure.reason}", err=True)
