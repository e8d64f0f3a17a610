"""The `upscale` command."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.advice import advised
from flowsr_export.options.choice import choice_record, say_choice
from flowsr_export.options.command import Command
from flowsr_export.options.progress import item_lines, progress
from flowsr_export.options.session import session_options
from flowsr_export.options.shared import FILE, flag, json_option, open_bundle
from flowsr_export.options.speech import note, program, speaker
from flowsr_export.options.upscale import cluster_options, machine_options, request_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsr_export.upscale.dry_run import PlannedUpscale
    from flowsr_export.upscale.jobs import Failure, Job, Report, Request
    from flowsr_export.upscale.ray import Cluster
    from flowsr_runtime import Bundle
    from flowsr_runtime.backends.session import Choice

__all__ = ["command"]

DEFAULT = click.core.ParameterSource.DEFAULT
GIB = 1 << 30


@click.command("upscale", cls=Command)
@click.argument("inputs", metavar="[BUNDLE] IN...", nargs=-1, required=True, type=FILE)
@click.option("--bundle", type=FILE, help="Bundle, instead of the first argument.")
@click.option(
    "-o",
    "--output",
    type=FILE,
    show_default="beside each image: photo_x4.png, photo_1920x1080.png",
    help="Output file, or output folder for several images; - is stdout.",
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
    output: Path | None,
    request: Request,
    machine: dict[str, Any],
    cluster: Cluster | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Upscale the images IN: files, and folders of files; - is stdin.

    The first argument is a bundle if it is a folder with bundle.json or its name ends with
    .bundle; otherwise the built-in model runs, and the argument must be an image or a folder
    of images. Images in a folder that are named like outputs of its other images, such as
    photo_x4.png beside photo.jpg, are left out.

    An output that exists is kept, reported at the end and makes the exit code nonzero;
    --skip-existing keeps it without a report, --force replaces it. The first frame of an
    animation is upscaled, or all of them with --all-frames.

    A failed image does not stop the others: each failure is reported at the end and makes
    the exit code nonzero. An image with values far out of range is written with a warning;
    one with NaN or infinity is not written. Reading, upscaling and writing overlap, unless
    --max-memory is given. If memory runs out, tiles are halved.

    \b
    Examples:
      flowsr-export upscale photo.jpg
      flowsr-export upscale photo.jpg -o large.png --scale 2.7
      flowsr-export upscale photo.jpg --scale 1.5,2,4
      flowsr-export upscale edsr.bundle photo.jpg --temperature 0.5 --samples 3
      flowsr-export upscale holiday/ -o large/ --size 1920x1080
      flowsr-export upscale archive/ -o large/ --recursive --format jpg --quality 90
      flowsr-export upscale - -o - --scale 2 < photo.png > large.png
      flowsr-export upscale poster.png -o huge.png --scale 4 --halo exact --max-memory 2G
      flowsr-export upscale srflow.bundle photo.jpg -o large.png
      flowsr-export upscale archive/ -o large/ --scale 4 --ray
    """
    from flowsr_export.upscale.folders import earlier_outputs, other_files, with_subfolders
    from flowsr_export.upscale.inputs import split_bundle
    from flowsr_export.upscale.jobs import Report, plan, split_existing

    context = click.get_current_context()
    if machine["devices"] is not None and context.get_parameter_source("device") != DEFAULT:
        raise click.UsageError("give at most one of --device and --devices")
    if request.force and request.skip_existing:
        raise click.UsageError("give at most one of --force and --skip-existing")
    path, images = (bundle, inputs) if bundle is not None else split_bundle(inputs)
    opened = open_bundle(path)
    if path is not None and not images:
        raise click.UsageError(f"{path} is a bundle; name the images after it")
    request = _completed(_sized(request, images), opened)
    jobs = plan(images, output, request, make=not dry_run)
    _check_streams(jobs, cluster, as_json, dry_run)
    jobs, existing = split_existing(jobs, request)
    folders = with_subfolders(images, request.recursive, output)
    left_out, others = earlier_outputs(folders), other_files(folders)
    if dry_run:
        from flowsr_export.upscale.devices import open_upscalers
        from flowsr_export.upscale.dry_run import plan_all

        with open_upscalers(opened, **machine) as upscalers:
            choice = upscalers[0].choice
            planned = plan_all(jobs, upscalers[0], request)
            exit_code = _print_plan(*planned, others, choice, as_json)
        if planned[0]:
            say_choice(choice, machine["settings"])
    else:
        report, choice = Report((), ()), None
        if jobs:
            report, choice = _upscale(opened, jobs, request, machine, cluster)
        report = dataclasses.replace(report, skipped=(*report.skipped, *existing))
        _print(report, others, choice, as_json)
        exit_code = report.exit_code
    _print_left_out(left_out, others)
    context.exit(exit_code)


def _sized(request: Request, images: Sequence[Path]) -> Request:
    """Return the request with its width and height as a size, and with its fit."""
    if request.width is not None or request.height is not None:
        if request.size is not None:
            raise click.UsageError("give --size, or --width and --height")
        size = request.height, request.width
        request = dataclasses.replace(request, size=size, width=None, height=None)
    if request.size is None or None in request.size:
        if request.fit is not None:
            raise click.UsageError("--fit needs a width and a height")
        return request
    if request.fit is None and (len(images) > 1 or os.path.isdir(images[0])):
        columns, rows = request.size[1], request.size[0]
        note(f"images are kept in shape inside {columns}x{rows}; --fit exact stretches them")
        request = dataclasses.replace(request, fit="inside")
    return request


def _check_streams(
    jobs: Sequence[Job], cluster: Cluster | None, as_json: bool, dry_run: bool
) -> None:
    """Refuse stdin and stdout where they cannot be used."""
    from flowsr_export.upscale.inputs import STREAM

    if not any(STREAM in (job.source, job.target) for job in jobs):
        return
    if cluster is not None:
        raise click.UsageError("- is not for --ray, whose workers have no stdin and stdout")
    if dry_run or jobs[0].target != STREAM:
        return
    if as_json:
        raise click.UsageError("--json and the image would both go to stdout; give -o FILE")
    if sys.stdout.isatty():
        raise click.UsageError("stdout is a terminal; give -o FILE, or redirect it")


def _completed(request: Request, bundle: Bundle) -> Request:
    """Check scale and size before the model is loaded; return the request with its scale."""
    from flowsr_export.upscale.jobs import DEFAULT_SCALE
    from flowsr_runtime.geometry import exact_scale

    fixed = bundle.manifest.scale
    if request.samples > 1 and not request.temperature:
        raise click.UsageError("--samples needs --temperature above 0")
    if request.seed + request.samples > 1 << 64:
        raise click.UsageError("--seed and --samples must stay below 2**64")
    if request.temperature_map is not None:
        request.strength()
    scales = request.scales or (() if request.scale is None else (request.scale,))
    if scales and request.size is not None:
        raise click.UsageError("give at most one of --scale and --size")
    for scale in scales:
        for factor in (scale,) if isinstance(scale, str) else scale:
            exact_scale(factor)
    if scales or request.size is not None:
        return request
    return dataclasses.replace(request, scale=DEFAULT_SCALE if fixed is None else str(fixed))


def _upscale(
    bundle: Bundle,
    jobs: Sequence[Job],
    request: Request,
    machine: dict[str, Any],
    cluster: Cluster | None,
) -> tuple[Report, Choice | None]:
    """Upscale every image; return the report, and the choice unless each worker chooses."""
    from flowsr_export.upscale.devices import is_on_host, open_upscalers
    from flowsr_export.upscale.pipeline import STEPS, upscale_all

    if cluster is not None:
        return _upscale_on_ray(bundle, jobs, request, machine, cluster), None
    several = bool(request.scales)
    with (
        open_upscalers(bundle, **machine, feature_cache=int(several)) as upscalers,
        progress("upscaling", len(jobs) * STEPS) as bar,
    ):
        choice = upscalers[0].choice
        if several and upscalers[0].why_not_shared is not None:
            note(upscalers[0].why_not_shared)
        on_host = choice is not None and is_on_host(choice.settings)
        report = upscale_all(
            jobs,
            upscalers,
            request,
            bar.advance,
            finished=item_lines(len(jobs)),
            overlap=machine["max_memory"] is None or not on_host,
            begin=partial(say_choice, choice, machine["settings"], speaker()),
            warn=speaker(),
        )
    return report, choice


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
    if not machine["settings"].self_test:
        note("no worker is tested: the self-test was switched off")
    config = WorkerConfig(bundle.path, request=request, **machine)
    line = item_lines(len(jobs))
    with progress("upscaling", len(jobs)) as bar:

        def tell(steps: int, name: str) -> None:
            bar.advance(steps, name)
            if name:
                line(name)

        report = upscale_on_ray(jobs, config, cluster, tell)
    for done in report.done:  # on this machine a warning is a line when it happens
        if done.warning:
            note(f"{done.source}: {done.warning}")
    return report


def _print(
    report: Report, others: dict[str, int], choice: Choice | None, as_json: bool
) -> None:
    if as_json:
        figures = {
            "pictures": len(report.done),
            "megapixels": round(report.megapixels, 6),
            "megapixels_per_second": round(report.megapixels_per_second, 6),
        }
        found = {"other_files": others, "runs_on": choice_record(choice)}
        content = {**dataclasses.asdict(report), **figures, **found}
        click.echo(json.dumps(content, default=str, indent=2))
    else:
        from flowsr_export.upscale.inputs import STREAM

        made = [done for done in report.done if done.target != STREAM]
        for done in made:
            size = f"{done.width}x{done.height}"
            click.echo(f"{done.target}  {size}  {done.seconds:.2f} s")
        if made or report.skipped:
            click.echo(_summary(report))
    _print_failures(report.failures)


def _summary(report: Report) -> str:
    """Return a one-line summary of the batch."""
    count = len(report.done)
    made = f"{count} image{'' if count == 1 else 's'}"
    if report.skipped:
        kept = len(report.skipped)
        made = f"{count} made, {kept} {'was' if kept == 1 else 'were'} there"
    parts = [
        f"{made}, {report.megapixels:.1f} megapixels "
        f"in {report.seconds:.1f} s, {report.megapixels_per_second:.2f} megapixels/s"
    ]
    if report.peak_bytes is not None:
        parts.append(f"{report.peak_bytes / GIB:.2f} GiB peak memory")
    return "; ".join(parts)


def _print_plan(
    planned: Sequence[PlannedUpscale],
    failures: Sequence[Failure],
    others: dict[str, int],
    choice: Choice | None,
    as_json: bool,
) -> int:
    """Print a dry run and return the exit code."""
    from flowsr_export.upscale.jobs import Report

    if as_json:
        rows = {
            "planned": [dataclasses.asdict(upscale) for upscale in planned],
            "failures": [dataclasses.asdict(failure) for failure in failures],
            "other_files": others,
            "runs_on": choice_record(choice),
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


def _print_left_out(outputs: Sequence[Path], others: dict[str, int]) -> None:
    if others:
        total = sum(others.values())
        kinds = ", ".join(f"{number} {kind}" for kind, number in others.items())
        note(f"left out {total} file{'' if total == 1 else 's'} of other kinds ({kinds})")
    if outputs:
        count = f"{len(outputs)} earlier output{'' if len(outputs) == 1 else 's'}"
        example = f"such as {outputs[0]}; name a file to upscale it"
        note(f"left out {count}, {example}")


def _print_failures(failures: Sequence[Failure]) -> None:
    command = click.get_current_context().command
    existing = [failure for failure in failures if failure.option == "force"]
    if len(existing) > 1:  # the same command again is no list of errors
        kept = f"{len(existing)} outputs exist and are kept"
        remedy = "--skip-existing makes no error of that, --force replaces them"
        click.echo(f"{program()}: {kept}; {remedy}", err=True)
        failures = [failure for failure in failures if failure not in existing]
    for failure in failures:
        line = advised(command, failure.reason, failure.option, failure.build)
        click.echo(f"{program()}: {line}", err=True)
