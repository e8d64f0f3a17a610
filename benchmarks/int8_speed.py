"""Time a bundle's float32 and int8 graphs on a CPU, interleaved.

With one thread the CPU time of the process is measured, which other work on the machine hardly
affects. With several threads it is wall-clock time, for a quiet machine. Kernel times are the
best of all runs in wall-clock time.

Example:
    python -m benchmarks.int8_speed small-int8.bundle --lr-size 128 --scale 4 --threads 2
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort

from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.feeds import graph_feeds
from flowsr_runtime import Bundle, output_size

__all__ = ["Timing", "markdown", "measure"]

KERNEL = "_kernel_time"
SHOWN = 12  # operators in a table


@dataclass(frozen=True)
class Timing:
    """Times of one graph.

    Attributes:
        precision: Precision of the graph.
        seconds: Minimum and median time of a run.
        kernels: Milliseconds by operator of ONNX Runtime, the largest first.
    """

    precision: str
    seconds: tuple[float, float]
    kernels: dict[str, float]


def measure(
    bundle: Bundle, precisions: list[str], case: Case, rounds: int, threads: int = 1
) -> list[Timing]:
    """Time graphs of a bundle in turn.

    Args:
        bundle: The bundle.
        precisions: Precisions of its graphs.
        case: Sizes.
        rounds: Runs of each graph, after a warm-up run.
        threads: CPU threads; one measures CPU time, more measure wall-clock time.
    """
    now = time.process_time if threads == 1 else time.perf_counter
    feeds = graph_feeds(bundle.manifest, case)
    times: dict[str, list[float]] = {name: [] for name in precisions}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name in precisions:
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.enable_mem_pattern = False  # as in the runtime
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / name)
            options.log_severity_level = 3
            sessions[name] = ort.InferenceSession(
                bundle.model_bytes(name), options, providers=["CPUExecutionProvider"]
            )
        for _ in range(rounds + 1):
            for name, session in sessions.items():
                begin = now()
                session.run(None, dict(feeds))
                times[name].append(now() - begin)
        profiles = {name: session.end_profiling() for name, session in sessions.items()}
        kernels = {name: _kernels(Path(path)) for name, path in profiles.items()}
    return [
        Timing(name, (min(times[name][1:]), float(np.median(times[name][1:]))), kernels[name])
        for name in precisions
    ]


def markdown(timings: list[Timing]) -> str:
    """Return tables of runs and of kernels."""
    first = timings[0].seconds[0]
    lines = ["| graph | minimum | median | of the first |", "| --- | --- | --- | --- |"]
    for timing in timings:
        least, median = timing.seconds
        lines.append(
            f"| {timing.precision} | {least:.3f} s | {median:.3f} s | {least / first:.2f} |"
        )
    for timing in timings:
        kernels = list(timing.kernels.items())[:SHOWN]
        shown = ", ".join(f"{name} {ms:.0f}" for name, ms in kernels)
        total = sum(timing.kernels.values())
        lines += ["", f"{timing.precision}, kernels in ms, {total:.0f} in total: {shown}"]
    return "\n".join(lines)


def _kernels(path: Path) -> dict[str, float]:
    """Return milliseconds by operator, from the best run of each node."""
    best: dict[tuple[str, str], float] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            key = event["args"]["op_name"], event["name"]
            best[key] = min(best.get(key, np.inf), event["dur"] / 1e3)
    totals: dict[str, float] = defaultdict(float)
    for (op, _), ms in best.items():
        totals[op] += ms
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", "precisions", multiple=True, default=("fp32", "int8"))
@click.option("--lr-size", type=int, default=128, show_default=True, help="Side in pixels.")
@click.option("--scale", type=int, default=4, show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True, help="CPU threads.")
def main(
    bundle: Path,
    precisions: tuple[str, ...],
    lr_size: int,
    scale: int,
    rounds: int,
    threads: int,
) -> None:
    """Print the time of BUNDLE's graphs and of their kernels."""
    side = output_size(lr_size, Fraction(scale))
    case = Case((lr_size, lr_size), (side, side))
    timings = measure(Bundle.open(bundle), list(precisions), case, rounds, threads)
    click.echo(markdown(timings))


if __name__ == "__main__":
    main()
