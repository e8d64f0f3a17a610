"""Speed of the deployed graph: against the published order and against the machine's sgemm.

Everything is measured in one run, in interleaved blocks, on the same number of threads.

Example:
    python -m benchmarks.speed --threads 2 --json speed.json
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from flowsr_export.deployment.interface import Network
from flowsr_export.machine.probes import GEMM_SIDE, onnxruntime_gemm, torch_gemm
from flowsr_export.onnx_graph.multiply_adds import count_macs
from flowsr_lp import LinfLP, load_checkpoint
from flowsr_lp.linf.published_order import PublishedOrder
from flowsr_lp.srflow.published_order import PublishedSrflow
from flowsr_runtime import Bundle, ParityError, Window, output_size
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession

__all__ = ["Speed", "markdown", "measure", "op_profile"]

# Of full range: far above what two float32 orders differ by, far below another model.
SAME_MODEL = 1e-3
# ONNX Runtime's threads spin for a while after a run; they must not disturb PyTorch's.
SETTLE_SECONDS = 0.1
MODEL: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 16, "n_feats": 64}},
        "flow_layers": 10,
        "num_layer": 3,
        "hidden_dim": 256,
        "patch_size": 3,
    },
}
PRIOR: dict[str, Any] = {"name": "unet", "args": {"in_chans": 27, "depth": 3, "dim": 64}}
SRFLOW: dict[str, Any] = {
    "name": "srflow",
    "args": {"scale": 4, "nb": 23, "K": 16, "L": 3, "blocks": [1, 8, 15, 22]},
}
SRFLOW_PRIOR: dict[str, Any] = {
    "name": "unet",
    "args": {"in_chans": [6, 96], "depth": 3, "dim": 64},
}

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Speed:
    """Figures of one run; times are medians in seconds, rates in multiply-adds per second.

    Attributes:
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        threads: CPU threads of everything.
        multiply_adds: Of the deployed graph, counted from its nodes.
        published_multiply_adds: Of the published order, counted as it runs.
        published_seconds: One inference in the published order, eager PyTorch.
        deployed_seconds: One inference of the deployed graph, ONNX Runtime.
        ratio: The one over the other.
        ratios: The same for each round.
        torch_sgemm: Rate of `torch.mm`, 2048 cubed, the best of the run.
        onnxruntime_sgemm: Rate of ONNX Runtime's MatMul, 2048 cubed, the best of the run.
        efficiency: Rate of the deployed graph over the larger of the two.
        difference: Largest difference of the two outputs, of full range.
    """

    lr: tuple[int, int]
    size: tuple[int, int]
    threads: int
    multiply_adds: int
    published_multiply_adds: int
    published_seconds: float
    deployed_seconds: float
    ratio: float
    ratios: list[float]
    torch_sgemm: float
    onnxruntime_sgemm: float
    efficiency: float
    difference: float


def measure(
    network: Network, model: bytes, lr: tuple[int, int], scale: float, threads: int, rounds: int
) -> Speed:
    """Time the published order, the deployed graph and sgemm in interleaved blocks.

    Args:
        network: Model with a learned prior.
        model: ONNX file of its deployed graph.
        lr: Low-resolution size (h, w).
        scale: Output pixels per input pixel.
        threads: CPU threads of everything.
        rounds: Blocks of each.

    Raises:
        ParityError: If the graph is not that of the network.
    """
    torch.set_num_threads(threads)
    rgb = torch.rand(1, 3, *lr, generator=torch.Generator().manual_seed(0))
    size = (output_size(lr[0], scale), output_size(lr[1], scale))
    session = OnnxRuntimeSession(
        model, provider="cpu", device=0, threads=threads, name="the deployed graph"
    )
    feeds = _feeds(rgb, size)
    published = _published(network, rgb, size)
    blocks: dict[str, tuple[int, Callable[[], object]]] = {
        "published": (1, published),
        "deployed": (3, lambda: session.run(feeds)),
        "torch": (2, torch_gemm()),
        "onnxruntime": (2, onnxruntime_gemm(threads)),
    }
    with torch.inference_mode():
        # These two first runs warm up as well.
        difference = float(np.abs(session.run(feeds) - published().numpy()).max())
        if not difference < SAME_MODEL:
            raise ParityError(f"the graph is of another model: outputs differ by {difference}")
        times: dict[str, list[list[float]]] = {name: [] for name in blocks}
        for _ in range(rounds):
            for name, (repeats, run) in blocks.items():
                time.sleep(SETTLE_SECONDS)
                times[name].append([_seconds(run) for _ in range(repeats)])
        with FlopCounterMode(display=False) as counter:
            published()
    work = count_macs(
        onnx.load_from_string(model), {"input": (1, 3, *lr)}, {"geometry": feeds["geometry"]}
    )
    counts = work.total, int(counter.get_total_flops()) // 2
    return _summary(times, lr, size, threads, counts, difference)


def _published(
    network: Network, rgb: torch.Tensor, size: tuple[int, int]
) -> Callable[[], torch.Tensor]:
    """A call that enlarges a picture in the published order."""
    if isinstance(network, LinfLP):
        linf = PublishedOrder(network)
        return lambda: linf(rgb, size)
    srflow = PublishedSrflow(network)
    return lambda: srflow(rgb)


def op_profile(
    model: bytes, feeds: Feeds, threads: int, runs: int = 5
) -> dict[str, dict[str, tuple[float, int]]]:
    """Profile the deployed graph with ONNX Runtime.

    Returns:
        Under "op" by operator and under "node" by node: milliseconds of one run and how many
        kernels, the slowest first.
    """
    options = _options(threads)
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [
        e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")
    ]
    kernels = kernels[len(kernels) // (runs + 1) :]  # the first run warms up
    groups: dict[str, dict[str, list[float]]] = {
        "op": defaultdict(list),
        "node": defaultdict(list),
    }
    for event in kernels:
        op = event["args"]["op_name"]
        groups["op"][op].append(event["dur"] / 1e3)
        name = event["name"].removesuffix("_kernel_time")
        groups["node"][f"{op} {name}"].append(event["dur"] / 1e3)
    return {
        kind: dict(
            sorted(
                ((name, (sum(ms) / runs, len(ms) // runs)) for name, ms in group.items()),
                key=lambda item: -item[1][0],
            )
        )
        for kind, group in groups.items()
    }


def markdown(speed: Speed) -> str:
    """Return the figures as a table."""
    published = f"{speed.published_multiply_adds / 1e9:.2f} G"
    deployed, own, torch_own = (
        f"{2 * rate / 1e9:.0f} GFLOP/s"
        for rate in (
            speed.multiply_adds / speed.deployed_seconds,
            speed.onnxruntime_sgemm,
            speed.torch_sgemm,
        )
    )
    low, high = ("×".join(map(str, side)) for side in (speed.lr, speed.size))
    per_pixel = speed.multiply_adds / (speed.lr[0] * speed.lr[1]) / 1e6
    lines = [
        f"{low} to {high}, {speed.threads} threads, {per_pixel:.2f} million multiply-adds per "
        "low-resolution pixel; GFLOP/s count a multiply-add as two.",
        "",
        "| what | measured |",
        "|---|---|",
        f"| multiply-adds of the published order | {published} |",
        f"| multiply-adds of the deployed graph | {speed.multiply_adds / 1e9:.2f} G, "
        f"{speed.multiply_adds / speed.published_multiply_adds:.3f} of them |",
        f"| published order, eager PyTorch | {speed.published_seconds:.3f} s |",
        f"| deployed graph, ONNX Runtime | {speed.deployed_seconds:.3f} s |",
        f"| ratio (of each round) | {speed.ratio:.2f} ({min(speed.ratios):.2f} to "
        f"{max(speed.ratios):.2f}) |",
        f"| deployed graph | {deployed} |",
        f"| sgemm {GEMM_SIDE}³, ONNX Runtime | {own} |",
        f"| sgemm {GEMM_SIDE}³, PyTorch | {torch_own} |",
        f"| share of the larger sgemm rate | {speed.efficiency:.2f} |",
        f"| largest difference of the outputs | {speed.difference:.1e} of full range |",
    ]
    return "\n".join(lines)


def profile_markdown(profile: dict[str, dict[str, tuple[float, int]]], nodes: int) -> str:
    """Return a profile as two tables: operators and nodes, the slowest first."""
    total = sum(ms for ms, _ in profile["op"].values())
    lines = []
    for kind, most in (("op", 12), ("node", nodes)):
        items = list(profile[kind].items())
        rest = items[most:]
        shown = [
            *items[:most],
            ("all others", (sum(ms for _, (ms, _) in rest), sum(n for _, (_, n) in rest))),
        ]
        lines += ["", f"| {kind} | ms | share | kernels |", "|---|---|---|---|"]
        for name, (ms, count) in shown:
            lines.append(f"| {name} | {ms:.2f} | {100 * ms / total:.1f} % | {count} |")
    return "\n".join(lines)


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _summary(
    times: dict[str, list[list[float]]],
    lr: tuple[int, int],
    size: tuple[int, int],
    threads: int,
    counts: tuple[int, int],
    difference: float,
) -> Speed:
    medians = {name: [statistics.median(block) for block in t] for name, t in times.items()}
    published = statistics.median(medians["published"])
    deployed = statistics.median(medians["deployed"])
    pairs = zip(medians["published"], medians["deployed"], strict=True)
    best = {
        name: GEMM_SIDE**3 / min(map(min, times[name])) for name in ("torch", "onnxruntime")
    }
    return Speed(
        lr,
        size,
        threads,
        *counts,
        published,
        deployed,
        published / deployed,
        [p / d for p, d in pairs],
        best["torch"],
        best["onnxruntime"],
        counts[0] / deployed / max(best.values()),
        difference,
    )


def _options(threads: int) -> ort.SessionOptions:
    """The runtime's own settings, for the sessions that it does not open."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    return options


def _feeds(rgb: torch.Tensor, size: tuple[int, int]) -> Feeds:
    window = Window.whole((rgb.shape[-2], rgb.shape[-1]), size)
    return {"input": rgb.numpy(), "geometry": window.geometry()}


def _stand_in(system: str) -> Network:
    """The published sizes with weights that depend on their names alone."""
    from tests import stand_in

    if system == "srflow":
        return stand_in.srflow_network(SRFLOW, SRFLOW_PRIOR)
    return stand_in.network(MODEL, PRIOR)


def _exported(network: Network) -> bytes:
    from flowsr_export.deployment.families import deployment_of
    from flowsr_export.export_onnx.exporter import onnx_from_deployment

    return bytes(onnx_from_deployment(deployment_of(network)).SerializeToString())


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Exported here if not given.")
@click.option("--model", type=click.Path(path_type=Path), help="Stand-in weights if not given.")
@click.option("--prior", type=click.Path(path_type=Path), help="Latent module of --model.")
@click.option("--system", type=click.Choice(["linf", "srflow"]), default="linf")
@click.option("--side", type=click.IntRange(min=8), default=128, show_default=True)
@click.option("--scale", type=float, default=4, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Print where the time goes.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write figures here."
)
def main(
    bundle: Path | None,
    model: Path | None,
    prior: Path | None,
    system: str,
    side: int,
    scale: float,
    threads: int,
    rounds: int,
    profiled: bool,
    json_path: Path | None,
) -> None:
    """Measure the deployed graph; prints Markdown.

    Without --model the published sizes are measured: edsr-baseline and unet, or SRFlow-LP.
    """
    if (model is None) != (prior is None):
        raise click.UsageError("give --model and --prior, or neither")
    network = _stand_in(system) if model is None else load_checkpoint(model, prior).network
    opened = None if bundle is None else Bundle.open(bundle)
    graph = _exported(network) if opened is None else opened.read(opened.model_name("fp32"))
    speed = measure(network, graph, (side, side), scale, threads, rounds)
    click.echo(markdown(speed))
    report: dict[str, Any] = {"speed": asdict(speed)}
    if profiled:
        rgb = torch.zeros(1, 3, side, side)
        profile = op_profile(graph, _feeds(rgb, speed.size), threads)
        click.echo(profile_markdown(profile, nodes=20))
        report["profile"] = profile
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
