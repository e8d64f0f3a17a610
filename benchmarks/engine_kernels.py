"""Time of every kernel of engines of Inductor, side by side, with accuracy and memory.

Example:
    python -m benchmarks.engine_kernels plain.bundle fused.bundle --lr-size 480x270 --scale 4 \
        --model linf/model.safetensors --prior linf/prior.safetensors -o kernels.md
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import Case, cases_of, sample_pictures
from flowsr_export.reports.table import markdown_rows
from flowsr_lp import embedded_checkpoint, load_checkpoint
from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.backends.engines.inductor_session import InductorSession

__all__ = ["Measured", "markdown", "measure"]

WARM_UP = 3
MOST_ROWS = 30  # kernels of the table, the rest are summed
LONGEST_NAME = 60
FILE = click.Path(exists=True, path_type=Path)


@dataclass(frozen=True)
class Measured:
    """An engine at one size.

    Attributes:
        name: Name of the bundle.
        kernels: Milliseconds of a run by kernel.
        psnr: PSNR against float32 PyTorch, dB.
        p999: 99.9th percentile of the difference, 8-bit steps.
        peak: Largest memory that PyTorch held on the GPU, MiB; None on a CPU.
    """

    name: str
    kernels: dict[str, float]
    psnr: float
    p999: float
    peak: float | None


def measure(
    bundle: Bundle, deployment: Deployment, case: Case, precision: str, device: str, runs: int
) -> Measured:
    """Run an engine under PyTorch's profiler and compare it with float32 PyTorch.

    Args:
        bundle: Bundle with an engine that takes the case.
        deployment: Its network.
        case: Sizes.
        precision: Precision of the engine.
        device: "cpu" or "cuda".
        runs: Profiled runs.
    """
    scale = None if bundle.manifest.geometry else bundle.manifest.scale
    feeds = deployment.feeds(case, scale)
    settings = SessionSettings("inductor", device, precision=precision, self_test=False)
    on_gpu = device == "cuda"
    with closing(settings.start(bundle)) as session:
        assert isinstance(session, InductorSession)
        given: dict[str, Any] = {**feeds}
        if on_gpu:
            given["input"] = torch.from_numpy(feeds["input"]).cuda()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM_UP):
            output = session.run_device(given)
        activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiler:
            for _ in range(runs):
                session.run_device(given)
        peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    with torch.inference_mode():
        exact = deployment.reference(torch.from_numpy(sample_pictures(case)), case.size, None)
    steps = 255 * np.abs(output.float().cpu().numpy() - exact.numpy()).ravel()
    psnr = 10 * np.log10(255**2 / np.mean(np.square(steps, dtype=np.float64)))
    return Measured(
        bundle.path.name,
        _kernels(profiler, runs, on_gpu=on_gpu),
        float(psnr),
        float(np.percentile(steps, 99.9)),
        peak,
    )


def _kernels(profiler: Any, runs: int, *, on_gpu: bool) -> dict[str, float]:
    """Return milliseconds of a run by kernel."""
    total: Counter[str] = Counter()
    for event in profiler.key_averages():
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        total[event.key[:LONGEST_NAME]] += time / 1e3 / runs
    return {name: time for name, time in total.most_common() if time > 0}


def markdown(engines: list[Measured]) -> str:
    """Return the tables: engines, then their kernels, the slowest first."""
    sums = [
        [
            engine.name,
            f"{sum(engine.kernels.values()):.3f}",
            str(len(engine.kernels)),
            f"{engine.psnr:.1f}",
            f"{engine.p999:.2f}",
            "" if engine.peak is None else f"{engine.peak:.0f}",
        ]
        for engine in engines
    ]
    heads = ["engine", "kernels, ms", "kernels", "PSNR, dB", "p99.9, steps", "peak, MiB"]
    most = {
        name: max(engine.kernels.get(name, 0) for engine in engines)
        for engine in engines
        for name in engine.kernels
    }
    names = sorted(most, key=lambda name: -most[name])
    rows = [
        [f"`{name}`", *(_cell(engine.kernels.get(name)) for engine in engines)]
        for name in names[:MOST_ROWS]
    ]
    rest = [sum(e.kernels.get(name, 0) for name in names[MOST_ROWS:]) for e in engines]
    rows.append([f"{len(names[MOST_ROWS:])} others", *map(_cell, rest)])
    columns = ["kernel", *(f"{engine.name}, ms" for engine in engines)]
    return "\n".join([*markdown_rows(heads, sums), "", *markdown_rows(columns, rows), ""])


def _cell(time: float | None) -> str:
    return "" if time is None else f"{time:.3f}"


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=FILE)
@click.option("--model", type=FILE, help="Checkpoint, else the built-in one.")
@click.option("--prior", type=FILE, help="Checkpoint of its prior.")
@click.option("--lr-size", default="480x270", show_default=True, help="Width x height.")
@click.option("--scale", type=Fraction, default="4", show_default=True, help="Scale.")
@click.option("--precision", default="fp16", show_default=True, help="Of the engines.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--runs", default=20, show_default=True, help="Profiled runs.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown file.")
def main(
    bundles: tuple[Path, ...],
    model: Path | None,
    prior: Path | None,
    lr_size: str,
    scale: Fraction,
    precision: str,
    device: str,
    runs: int,
    output: Path | None,
) -> None:
    """Measure the engines of BUNDLES at one size, such as one before a change and one after."""
    if model is None:
        model, prior = embedded_checkpoint()
    deployment = deployment_of(load_checkpoint(model, prior).network)
    width, height = (int(side) for side in lr_size.split("x"))
    (case,) = cases_of([(height, width)], [scale])
    opened = [Bundle.open(path) for path in bundles]
    measured = [measure(b, deployment, case, precision, device, runs) for b in opened]
    text = markdown(measured)
    click.echo(text, nl=False)
    if output is not None:
        output.write_text(text)


if __name__ == "__main__":
    main()
