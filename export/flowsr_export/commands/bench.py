"""The `bench` command, and `bench compare` under it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.choice import choice_record, say_choice
from flowsr_export.options.command import Choice, Command, Group
from flowsr_export.options.progress import counted_progress
from flowsr_export.options.session import cuda_options, self_test_option
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    PRECISIONS,
    bundle_argument,
    choice_option,
    device_option,
    flag,
    force_option,
    json_option,
    number_option,
    packs,
    provider_option,
    scales_option,
    seed_option,
    threads_option,
    value_option,
)
from flowsr_export.options.values import (
    FiniteRange,
    parse_duration,
    parse_percentiles,
    size_type,
)

if TYPE_CHECKING:
    from flowsr_export.bench.compare import Comparison
    from flowsr_export.bench.plan import BenchmarkConfig
    from flowsr_export.inputs.run_sizes import Scale
    from flowsr_runtime.backends.session import Choice as RunChoice

__all__ = ["command"]

BACKENDS = (
    *("auto", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino"),
    *("torch", "torch-compiled", "published"),
)


class _ParentNamedContext(click.Context):
    """The context of a default command: usage lines name the group alone."""

    @property
    def command_path(self) -> str:
        """Return the path of the group."""
        assert self.parent is not None
        return self.parent.command_path


class _DefaultCommand(Command):
    context_class = _ParentNamedContext


class _DefaultGroup(Group):
    """A group that runs `run` unless the command line is one of `compare`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `run` before its arguments; only measuring has an output."""
        measures = any(arg.startswith(("-o", "--output")) for arg in args)
        if args[:1] != ["compare"] or measures:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=_DefaultGroup, add_help_option=False)
def command() -> None:
    """Measure latency, throughput and memory of a bundle, or compare two reports."""


@command.command("compare")
@click.argument("first", metavar="A", type=FILE)
@click.argument("second", metavar="B", type=FILE)
@number_option(
    "--threshold",
    FiniteRange(min=0, min_open=True),
    0.05,
    "Relative change of the time that counts as a difference.",
)
@json_option
def compare_command(first: Path, second: Path, threshold: float, as_json: bool) -> None:
    """Compare report B with report A, row by row.

    A row is better or worse when the confidence interval of its time ratio excludes 1, equal
    when the interval lies within the threshold, and inconclusive otherwise. The interval
    comes from a bootstrap over the blocks, at 95 % for all rows together. Exit code 7 means
    that a row became slower by more than the threshold.

    \b
    Example:
      flowsr-export bench compare before.json after.json
    """
    import json

    from flowsr_export.bench.compare import check, compare, read_report

    comparison = compare(read_report(first), read_report(second), threshold)
    if as_json:
        click.echo(json.dumps(asdict(comparison), indent=1))
    else:
        _print_comparison(comparison)
    check(comparison, threshold)


def _config(
    *,
    threads: int | None,
    scales: tuple[Scale, ...],
    lr_size: tuple[tuple[int, int], ...],
    output_size: tuple[int, int] | None,
    sweep: bool,
    warm_up: float,
    duration: float,
    blocks: int,
    seed: int,
    **fields: Any,
) -> BenchmarkConfig:
    """Combine options into the configuration of a benchmark."""
    from flowsr_export.bench.plan import SWEPT_SIDES, BenchmarkConfig
    from flowsr_export.bench.timing import TimingSchedule
    from flowsr_runtime import UsageError
    from flowsr_runtime.backends.cores import usable_cores

    if output_size is not None and (lr_size or sweep):
        raise UsageError("give either --size, or --lr-size and --sweep")
    if fields["prior"] is not None and fields["model"] is None:
        raise UsageError("--prior needs --model")
    default_sizes = tuple((side, side) for side in SWEPT_SIDES) if sweep else ((128, 128),)
    return BenchmarkConfig(
        threads=threads or usable_cores(),
        scales=scales,
        lr_sizes=lr_size or default_sizes,
        output_size=output_size,
        pace=TimingSchedule(warm_up, duration, blocks, seed),
        growth=sweep,
        **fields,
    )


@command.command("run", cls=_DefaultCommand, hidden=True)
@packs(
    _config,
    bundle_argument,
    click.option(
        "--backend",
        "backends",
        type=Choice(BACKENDS),
        multiple=True,
        default=("auto",),
        show_default=True,
        help="Library that runs the model; may be repeated. auto is the one that upscale "
        "takes.",
    ),
    provider_option(
        "Execution provider.  [default: every available one with --backend onnxruntime]"
    ),
    device_option,
    threads_option,
    choice_option(
        "--precision",
        ["auto", *PRECISIONS],
        "Precision of the bundle's graph to run; PyTorch runs float32.",
    ),
    click.option("--model", type=FILE, help="Checkpoint of the bundle's flow, for PyTorch."),
    click.option("--prior", type=FILE, help="Checkpoint of the bundle's prior, for PyTorch."),
    scales_option("1.5,2,3,4,8, or the bundle's own"),
    value_option(
        size_type,
        "--lr-size",
        help="Input width and height; may be repeated.",
        multiple=True,
        show_default="128x128",
    ),
    value_option(
        size_type,
        "--size",
        "output_size",
        old=["--output-size"],
        help="Output width and height, instead of --lr-size.",
    ),
    number_option("--batch", POSITIVE, 1, "Number of images per run."),
    value_option(
        parse_duration,
        "--duration",
        help="Measured time of each row, such as 3s.",
        default="3s",
    ),
    value_option(
        parse_duration,
        "--warm-up",
        help="Warm-up time of each row, such as 200ms.",
        default="200ms",
    ),
    number_option("--blocks", POSITIVE, 10, "Number of blocks per row; comparing needs five."),
    value_option(
        parse_percentiles,
        "--percentile",
        "percentiles",
        help="Percentiles to report besides the median.",
        default="90,95,99",
    ),
    seed_option("Random seed for the order of the blocks."),
    click.option("--memory/--no-memory", default=True, help="Measure memory.  [default: yes]"),
    click.option("--stages/--no-stages", default=True, help="Profile stages.  [default: yes]"),
    *cuda_options,
    self_test_option,
    flag("--sweep", "Measure several sizes and how the time grows with them."),
    name="config",
)
@click.option(
    "-o", "--output", type=FILE, required=True, help="Report, written as .json, .md and .html."
)
@force_option
@json_option
def run_command(config: BenchmarkConfig, output: Path, force: bool, as_json: bool) -> None:
    """Measure BUNDLE, or the built-in model: latency, throughput, memory, stages.

    All backends and scales are measured in one run, in blocks of random order, together with
    the machine's own matrix products and copies. Blocks during which other processes were
    busy are marked. `bench compare A B` compares two reports.

    \b
    Examples:
      flowsr-export bench -o before
      flowsr-export bench --backend onnxruntime --backend torch --scale 2,4 -o report
      flowsr-export bench --sweep --no-memory -o growth
      flowsr-export bench compare before.json after.json
    """
    import json

    # Import matplotlib first: a missing library must not be found after a long run.
    import flowsr_export.bench.charts  # noqa: F401
    from flowsr_export.bench.report import SUFFIXES, as_markdown, write_report
    from flowsr_export.bench.run import bench
    from flowsr_export.reports.files import report_paths
    from flowsr_runtime import SessionSettings

    report_paths(output, SUFFIXES, force=force)
    choices: list[RunChoice] = []
    with counted_progress("bench") as (start, advance):
        report = bench(config, choose=choices.append, start=start, advance=advance)
    choice = choices[0] if choices else None
    say_choice(choice, SessionSettings())
    line = shlex.join(["flowsr-export", *sys.argv[1:]])
    paths = write_report(report, output, line, force=force)
    if as_json:
        files = [str(path) for path in paths]
        content = {"files": files, "runs_on": choice_record(choice), **report.as_dict()}
        click.echo(json.dumps(content))
        return
    click.echo(as_markdown(report, line))
    click.echo(f"written: {', '.join(str(path) for path in paths)}")


def _print_comparison(comparison: Comparison) -> None:
    for note in comparison.notes:
        click.echo(f"the two runs differ in {note}")
    for verdict in comparison.verdicts:
        interval = f"{verdict.ratio:.3f}"
        if verdict.low is not None and verdict.high is not None:
            interval += f" ({verdict.low:.3f} to {verdict.high:.3f})"
        note = f"  {verdict.note}" if verdict.note else ""
        click.echo(f"{verdict.word:13} {interval:26} {verdict.row}{note}")
    for report, names in (("first", comparison.only_first), ("second", comparison.only_second)):
        for name in names:
            click.echo(f"only in the {report}: {name}")
