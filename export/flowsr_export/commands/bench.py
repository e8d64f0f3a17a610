"""The `bench` command, and `bench compare` under it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flowsr_export.options.choice import choice_record, say_choice
from flowsr_export.options.command import Choice, Command, Group
from flowsr_export.options.progress import counted_progress
from flowsr_export.options.session import cuda_options, self_test_option, session_options
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
    open_bundle,
    packs,
    provider_option,
    scales_option,
    seed_option,
    threads_option,
    value_option,
)
from flowsr_export.options.values import (
    FiniteRange,
    WholeRange,
    parse_counts,
    parse_duration,
    parse_limit,
    parse_percentiles,
    parse_rates,
    scale_type,
    size_type,
)

if TYPE_CHECKING:
    from flowsr_export.bench.compare import Comparison
    from flowsr_export.bench.open_loop import LatencyLimit, Load, RateResult
    from flowsr_export.bench.plan import BenchmarkConfig
    from flowsr_export.inputs.run_sizes import Scale
    from flowsr_runtime import SessionSettings
    from flowsr_runtime.backends.session import Choice as RunChoice

__all__ = ["command"]

BACKENDS = (
    *("auto", "onnxruntime", "tensorrt", "tensorrt_rtx", "inductor", "openvino"),
    *("torch", "torch-compiled", "published", "published-compiled"),
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
    """A group that runs `run` unless the command line is one of `compare` or `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `run` before its arguments; only measuring has an output."""
        measures = any(arg.startswith(("-o", "--output")) for arg in args)
        if args[:1] not in (["compare"], ["serve"]) or measures:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=_DefaultGroup, add_help_option=False)
def command() -> None:
    """Measure a bundle, or a server under load, or compare two reports."""


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


@command.command("serve")
@bundle_argument
@click.option("--url", help="Address of a running server, instead of one of BUNDLE.")
@value_option(
    parse_limit,
    "--limit",
    help="Percentile and the longest time that it may have, such as p99:200ms.",
    required=True,
)
@value_option(
    parse_rates,
    "--rate",
    "rates",
    help="Requests per second, joined by commas.",
    show_default="a search for the highest that holds",
)
@choice_option(
    "--arrivals",
    ["poisson", "constant"],
    "Gaps between requests: random, as of independent clients, or equal.",
)
@value_option(
    parse_duration,
    "--duration",
    help="Least time of each rate; a percentile needs its number of requests.",
    default="10s",
)
@value_option(size_type, "--lr-size", help="Width and height of the image.", default="128x128")
@value_option(scale_type, "--scale", help="Upscaling factor of a request.", default="4")
@seed_option("Random seed for the arrivals.")
@number_option("--jobs", POSITIVE, 1, "Number of images that the server processes at once.")
@number_option("--queue", WholeRange(min=0), 16, "Number of waiting images of the server.")
@session_options
@json_option
def serve_command(
    bundle: Path | None,
    url: str | None,
    limit: tuple[float, float],
    rates: tuple[float, ...] | None,
    arrivals: Literal["poisson", "constant"],
    duration: float,
    lr_size: tuple[int, int],
    scale: str | tuple[str, str],
    seed: int,
    jobs: int,
    queue: int,
    settings: SessionSettings,
    as_json: bool,
) -> None:
    """Find the highest rate of requests at which a server keeps a limit of latency.

    A server of BUNDLE, or of the built-in model, is started for it, unless --url names one.
    Requests arrive when they are due, whether earlier ones were answered or not, and their
    times count from then. A refused request misses the limit. Exit code 7 means that no rate
    holds.

    \b
    Examples:
      flowsr-export bench serve --limit p90:1s --lr-size 64x64
      flowsr-export bench serve edsr.bundle --limit p99:200ms --rate 5,10,20 --json
      flowsr-export bench serve --url http://127.0.0.1:8000 --limit p99:200ms
    """
    import json

    from flowsr_export.bench.local_server import serving
    from flowsr_export.bench.open_loop import LatencyLimit, Load
    from flowsr_runtime import UsageError

    if url is not None and bundle is not None:
        raise UsageError("give either BUNDLE or --url")
    request = {"lr_size": lr_size, "scale": scale}
    with ExitStack() as stack:
        about: dict[str, Any] = {"url": url, "runs_on": None}
        if url is None:
            open_bundle(bundle)
            options = _server_options(bundle, settings, jobs, queue)
            server = stack.enter_context(serving(options))
            about = {"url": server.url, "runs_on": server.runs_on}
        body = _request(about["url"], lr_size, scale)
        load = Load(about["url"], body, arrivals, duration, seed)
        record = _offer_rates(load, LatencyLimit(*limit), rates or (), as_json)
    if as_json:
        click.echo(json.dumps({"server": about, "request": request, **record}, indent=1))
    _require_a_rate(record["highest_rate"], LatencyLimit(*limit))


def _offer_rates(
    load: Load, limit: LatencyLimit, rates: Sequence[float], quiet: bool
) -> dict[str, Any]:
    """Measure rates, print a line for each unless quiet, and return all as JSON values."""
    from flowsr_export.bench.open_loop import highest_rate, offer, service_time
    from flowsr_export.machine.libraries import describe_machine

    alone = service_time(load)
    if not quiet:
        click.echo(f"one request alone takes {1e3 * alone:.1f} ms; limit: {limit}")

    def measure(rate: float) -> RateResult:
        result = offer(load, rate, limit)
        if not quiet:
            click.echo(_rate_line(result))
        return result

    results = highest_rate(measure, rates, 0.5 / alone)
    held = [result.rate for result in results if result.holds]
    best = max(held, default=None)
    if not quiet and best is not None:
        click.echo(f"highest rate that holds: {best:.3g} requests per second")
    return {
        "limit": asdict(limit),
        "arrivals": load.arrivals,
        "seed": load.seed,
        "alone_seconds": alone,
        "highest_rate": best,
        "rates": [result.as_dict() for result in results],
        "machine": describe_machine(),
    }


def _rate_line(result: RateResult) -> str:
    times = ", ".join(
        f"{name} {'unknown' if value is None else f'{1e3 * value:.1f} ms'}"
        for name, value in result.seconds.items()
    )
    word = "holds" if result.holds else "fails"
    return (
        f"{word}  {result.rate:8.3g} per second  {result.answered} of {result.requests} "
        f"answered, {times}"
    )


def _request(url: str, lr_size: tuple[int, int], scale: str | tuple[str, str]) -> bytes:
    """Return a request with a crop of a shipped photograph as PNG."""
    import io

    from PIL import Image

    from flowsr_export.bench.open_loop import request_of
    from flowsr_export.inputs.cases import Case, sample_pictures
    from flowsr_runtime.pictures.depth import to_depth

    (photo,) = to_depth(sample_pictures(Case(lr_size, lr_size)), 8).transpose(0, 2, 3, 1)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "PNG")
    text = scale if isinstance(scale, str) else f"{scale[1]}x{scale[0]}"
    return request_of(url, file.getvalue(), f"scale={text}")


def _server_options(
    bundle: Path | None, settings: SessionSettings, jobs: int, queue: int
) -> list[str]:
    """Return the arguments of `serve` for a bundle and the settings of its session."""
    options = {
        "--jobs": jobs,
        "--queue": queue,
        "--backend": settings.backend,
        "--provider": settings.provider,
        "--device": settings.device,
        "--threads": settings.threads,
        "--precision": settings.precision,
        "--workers": settings.workers,
        "--cuda-graphs": settings.cuda_graphs,
        "--convolution-search": settings.convolution_search,
    }
    given = [[name, str(value)] for name, value in options.items() if value is not None]
    flags = ["--tf32"] * settings.tf32 + ["--no-self-test"] * (not settings.self_test)
    words = [word for one in given for word in one]
    return [*([] if bundle is None else [str(bundle)]), *words, *flags]


def _require_a_rate(best: float | None, limit: LatencyLimit) -> None:
    from flowsr_runtime.errors import RegressionError

    if best is None:
        raise RegressionError(f"no rate that was offered keeps the limit, {limit}")


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
    min_runs: int,
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
        pace=TimingSchedule(warm_up, duration, blocks, seed, min_runs),
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
        "Precision of the bundle's graph to run; torch and torch-compiled run it too if it is "
        "fp16 or bf16, published-compiled on a GPU in fp16 autocast.",
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
    value_option(
        parse_counts,
        "--batch",
        "batches",
        help="Numbers of images in one run, joined by commas.",
        default="1",
    ),
    value_option(
        parse_counts,
        "--streams",
        help="Numbers of runs of the graph at once, joined by commas; not of PyTorch.",
        default="1",
    ),
    number_option(
        "--cuda-graphs",
        WholeRange(min=0),
        0,
        "Maximum number of captured CUDA graphs; above 0 the GPU is also measured with them.",
    ),
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
    number_option(
        "--min-runs",
        POSITIVE,
        1,
        "Least number of runs of each row; the 90th percentile needs 64, the 99th 662.",
    ),
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
