"""What eight bits save on a CPU: a bundle's float32 and int8 graphs, interleaved.

With one thread it is the CPU time of the process: other work on the machine stretches the
clock, and hardly that. With several it is the clock, for a quiet machine. The kernels' times
are each kernel's best of all runs, by the clock.

Example:
    python -m benchmarks.int8_speed small-int8.bundle --lr-size 128 --scale 4 --threads 2
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
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
SHOWN = 12  # operators of a table


@dataclass(frozen=True)
class Timing:
    """One graph.

    Attributes:
        precision: Which one.
        seconds: Time of a run, the least and the median.
        kernels: Milliseconds by operator of ONNX Runtime, the most first.
    """

    precision: str
    seconds: tuple[float, float]
    kernels: dict[str, float]


def measure(
    bundle: Bundle, precisions: list[str], case: Case, rounds: int, threads: int = 1
) -> list[Timing]:
    """Time graphs of a bundle in turn.

    Args:
        bundle: It holds them.
        precisions: Which of its graphs.
        case: Sizes.
        rounds: Runs of each, after one that is not counted.
        threads: Of each graph; the time is the process's with one, the clock's with more.
    """
    now = time.process_time if threads == 1 else time.perf_counter
    feeds = graph_feeds(bundle.manifest, case)
    times: dict[str, list[float]] = {name: [] for name in precisions}
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name in precisions:
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.enable_mem_pattern = False  # as the runtime has it
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
    lines = ["| graph | least | median | of the first |", "| --- | --- | --- | --- |"]
    for each in timings:
        least, median = each.seconds
        lines.append(
            f"| {each.precision} | {least:.3f} s | {median:.3f} s | {least / first:.2f} |"
        )
    for each in timings:
        shown = ", ".join(f"{name} {ms:.0f}" for name, ms in list(each.kernels.items())[:SHOWN])
        total = sum(each.kernels.values())
        lines += ["", f"{each.precision}, kernels in ms, {total:.0f} in all: {shown}"]
    return "\n".join(lines)


def _kernels(path: Path) -> dict[str, float]:
    """Milliseconds by operator, the best run of each node."""
    best: dict[str, tuple[str, float]] = {}
    for event in json.loads(path.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            kind, before = best.get(event["name"], (event["args"]["op_name"], np.inf))
            best[event["name"]] = (kind, min(before, event["dur"] / 1e3))
    totals: Counter[str] = Counter()
    for kind, ms in best.values():
        totals[kind] += ms  # type: ignore[assignment]  # a Counter of milliseconds
    return {name: float(ms) for name, ms in totals.most_common()}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--precision", "precisions", multiple=True, default=("fp32", "int8"))
@click.option("--lr-size", type=int, default=128, show_default=True, help="Side in pixels.")
@click.option("--scale", type=int, default=4, show_default=True)
@click.option("--rounds", type=int, default=5, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True, help="Above 1 the clock.")
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
