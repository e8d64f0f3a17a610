"""The `bench` command, and `bench compare` under it."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.session import force_option, json_option, scale_type, size_type

if TYPE_CHECKING:
    from flowsr_export.bench.compare import Comparison
    from flowsr_export.bench.plan import BenchmarkConfig
    from flowsr_export.options.progress import Progress

__all__ = ["command"]

FILE = click.Path(path_type=Path)
UNITS = {"ms": 1e-3, "s": 1.0}
BACKENDS = (
    *("onnxruntime", "tensorrt", "tensorrt_rtx"),
    *("torch", "torch-compiled", "published"),
)


def parse_duration(value: str) -> float:
    """Read a time above 0 in seconds, as in `3s`, `200ms` or `1.5`."""
    text = value.strip().lower()
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    try:
        seconds = float(text.removesuffix(unit)) * UNITS.get(unit, 1.0)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"{value!r} is not as in 3s or 200ms")
    return seconds


def parse_percentiles(value: str) -> tuple[float, ...]:
    """Read percentiles joined by commas, as in `90,95,99`."""
    try:
        found = tuple(map(float, value.split(",")))
    except ValueError:
        found = (-1.0,)
    if not all(0 < percentile < 100 for percentile in found):
        raise click.BadParameter(f"{value!r} is not as in 90,95,99")
    return found


@click.command("compare")
@click.argument("first", metavar="A", type=FILE)
@click.argument("second", metavar="B", type=FILE)
@click.option(
    "--threshold",
    type=click.FloatRange(min=0, min_open=True),
    default=0.05,
    show_default=True,
    help="Relative change of time that matters.",
)
@json_option
def compare_command(first: Path, second: Path, threshold: float, as_json: bool) -> None:
    """Judge report B by report A, row by row.

    A row is better or worse when the interval of its ratio does not hold 1, equal when it
    lies within the threshold, else inconclusive; a bootstrap over the blocks, at 95 % for
    all rows together. Ends with exit code 7 when a row is worse by more than the threshold.

    \b
    Example:
      flowsr-export bench compare before.json after.json
    """
    import json

    from flowsr_export.bench.compare import check, compare, read_report

    done = compare(read_report(first), read_report(second), threshold)
    if as_json:
        click.echo(json.dumps(asdict(done), indent=1))
    else:
        _print_comparison(done)
    check(done, threshold)


class _WithCompare(click.Command):
    """A command with a bundle for its argument, which `compare` as the first word replaces."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Hand `compare` to its own command."""
        if args[:1] == ["compare"]:
            name = f"{info_name} compare"
            return compare_command.make_context(name, args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("bench", cls=_WithCompare)
@click.argument("bundle", required=False, type=FILE)
@click.option(
    "--backend",
    "backends",
    type=click.Choice(BACKENDS),
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    help="What runs the model; give it again for another.",
)
@click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt", "openvino"]),
    help="What a backend computes with.  [default: every one that starts]",
)
@click.option(
    "--device",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of the GPU.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), show_default="all cores", help="CPU threads."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16", "int8", "fp8"]),
    default="fp32",
    show_default=True,
    help="Which of the bundle's graphs to run; PyTorch runs float32.",
)
@click.option("--model", type=FILE, help="Checkpoint of the bundle's flow, for PyTorch.")
@click.option("--prior", type=FILE, help="Checkpoint of its latent module.")
@click.option(
    "--scale",
    "scales",
    show_default="1.5,2,3,4,8, or the bundle's own",
    help="Scales, joined by commas.",
)
@click.option(
    "--lr-size",
    multiple=True,
    show_default="128x128",
    help="Low-resolution width and height; give it again for another.",
)
@click.option("--output-size", help="Output width and height, in place of --lr-size.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pictures at once.",
)
@click.option("--duration", default="3s", show_default=True, help="Runs of each row.")
@click.option("--warm-up", default="200ms", show_default=True, help="Uncounted runs before.")
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Blocks of each row; comparing needs five.",
)
@click.option("--percentile", default="90,95,99", show_default=True, help="Beside the median.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the blocks' order.")
@click.option("--memory/--no-memory", default=True, help="Measure memory.  [default: yes]")
@click.option("--stages/--no-stages", default=True, help="Profile stages.  [default: yes]")
@click.option("--sweep", is_flag=True, help="Several sizes, and how the time grows with them.")
@click.option("-o", "--output", type=FILE, required=True, help="Report: .json, .md and .html.")
@force_option
@json_option
def command(output: Path, force: bool, as_json: bool, **asked: Any) -> None:
    """Measure BUNDLE on this machine: latency, throughput, efficiency, memory, stages.

    Every backend and scale in one run: blocks that alternate in a random order, beside the
    machine's own matrix products and copies. Blocks in which other processes were busy are
    marked. `bench compare A B` judges one report by another. Without BUNDLE it is the
    built-in one.

    \b
    Examples:
      flowsr-export bench -o before
      flowsr-export bench --backend onnxruntime --backend torch --scale 2,4 -o report
      flowsr-export bench --sweep --no-memory -o growth
      flowsr-export bench compare before.json after.json
    """
    import json

    config = _config(asked)

    # At once: a library that is missing should not be missed after the run.
    import flowsr_export.bench.charts  # noqa: F401
    from flowsr_export.bench.report import SUFFIXES, as_markdown, write_report
    from flowsr_export.bench.run import bench
    from flowsr_export.options.progress import progress
    from flowsr_export.reports.files import report_paths

    report_paths(output, SUFFIXES, force=force)
    with ExitStack() as stack:
        bars: list[Progress] = []

        def start(total: int) -> None:
            bars.append(stack.enter_context(progress("bench", total)))

        report = bench(config, start=start, advance=lambda note: bars[0].advance(1, note))
    line = shlex.join(["flowsr-export", *sys.argv[1:]])
    paths = write_report(report, output, line, force=force)
    if as_json:
        click.echo(json.dumps({"files": [str(path) for path in paths], **report.as_dict()}))
        return
    click.echo(as_markdown(report, line))
    click.echo(f"written: {', '.join(str(path) for path in paths)}")


def _config(asked: dict[str, Any]) -> BenchmarkConfig:
    """Turn options into what to measure."""
    from flowsr_export.bench.plan import SWEPT_SIDES, BenchmarkConfig
    from flowsr_export.bench.timing import TimingSchedule
    from flowsr_runtime import UsageError
    from flowsr_runtime.backends.cores import usable_cores

    scales = asked["scales"]
    sizes = tuple(size_type(text) for text in asked["lr_size"])
    output_size = asked["output_size"]
    if output_size is not None and (sizes or asked["sweep"]):
        raise UsageError("give --output-size, or --lr-size and --sweep")
    if asked["prior"] is not None and asked["model"] is None:
        raise UsageError("--prior needs --model")
    swept = tuple((side, side) for side in SWEPT_SIDES) if asked["sweep"] else ((128, 128),)
    return BenchmarkConfig(
        threads=asked["threads"] or usable_cores(),
        bundle=asked["bundle"],
        model=asked["model"],
        prior=asked["prior"],
        backends=asked["backends"],
        provider=asked["provider"],
        device=asked["device"],
        precision=asked["precision"],
        scales=tuple(scale_type(text) for text in scales.split(",")) if scales else (),
        lr_sizes=sizes or swept,
        output_size=None if output_size is None else size_type(output_size),
        batch=asked["batch"],
        pace=TimingSchedule(
            parse_duration(asked["warm_up"]),
            parse_duration(asked["duration"]),
            asked["blocks"],
            asked["seed"],
        ),
        percentiles=parse_percentiles(asked["percentile"]),
        memory=asked["memory"],
        stages=asked["stages"],
        growth=asked["sweep"],
    )


def _print_comparison(done: Comparison) -> None:
    for note in done.notes:
        click.echo(f"the two runs differ in {note}")
    for verdict in done.verdicts:
        interval = f"{verdict.ratio:.3f}"
        if verdict.low is not None and verdict.high is not None:
            interval += f" ({verdict.low:.3f} to {verdict.high:.3f})"
        note = f"  {verdict.note}" if verdict.note else ""
        click.echo(f"{verdict.word:13} {interval:26} {verdict.row}{note}")
    for place, names in (("first", done.only_first), ("second", done.only_second)):
        for name in names:
            click.echo(f"only in the {place}: {name}")
