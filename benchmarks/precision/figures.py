"""Differences of a graph with rounding from its float32 graph, on the shipped photographs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray
from torch import nn

from flowsr_calibration.panel import psnr
from flowsr_export.deployment.families import deployment_of
from flowsr_export.deployment.interface import Deployment
from flowsr_export.inputs.cases import Case
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_export.reports.table import markdown_rows
from flowsr_lp import LinfLP, embedded_checkpoint, load_checkpoint
from flowsr_runtime import output_size

__all__ = [
    "PHOTOGRAPHS",
    "Figures",
    "error_stats",
    "exact_outputs",
    "graph_figures",
    "linf_of",
    "markdown",
    "measurement_options",
    "outputs",
    "write_figures",
]

F = TypeVar("F", bound=Callable[..., Any])

PHOTOGRAPHS = 7
EIGHT_BIT = 255
SCALES = ("2", "2.7", "4")


@dataclass(frozen=True)
class Figures:
    """Differences from float32, the largest of the photographs.

    Attributes:
        precision: Type of the heavy layers.
        island: Islands in that type, "none" as deployed.
        scale: Output pixels per input pixel.
        psnr: Lowest PSNR, dB.
        p999_steps: Largest 99.9th percentile of the difference, eight-bit steps.
        max_steps: Largest difference, eight-bit steps, not rounded.
    """

    precision: str
    island: str
    scale: str
    psnr: float
    p999_steps: float
    max_steps: float


def measurement_options(lr: int) -> Callable[[F], F]:
    """Return the options of every measurement; `lr` is the default side of the crops."""
    options = (
        click.option("--model", type=click.Path(path_type=Path), help="Checkpoint of a flow."),
        click.option("--prior", type=click.Path(path_type=Path), help="Its latent module."),
        click.option("--lr", type=int, default=lr, show_default=True, help="Pixels a side."),
        click.option(
            "--json", "report", type=click.Path(path_type=Path), help="Write the values."
        ),
    )

    def decorated(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorated


def linf_of(model: Path | None, prior: Path | None) -> LinfLP:
    """Load LINF-LP, the built-in one without a checkpoint."""
    files = embedded_checkpoint() if model is None else (model, prior)
    network = load_checkpoint(*files).network
    assert isinstance(network, LinfLP)
    return network


def exact_outputs(network: LinfLP, lr: int) -> dict[str, NDArray[np.float32]]:
    """Upscale the photographs in float32 at every scale.

    Args:
        network: LINF-LP in evaluation mode, with a learned prior.
        lr: Side of the photographs' crops, low-resolution pixels.

    Returns:
        Outputs (7, 3, H, W) by scale.
    """
    deployment = deployment_of(network)
    run = HalfPrecisionEmulator(deployment, "fp32", None)
    return {scale: outputs(run, deployment, scale, lr) for scale in SCALES}


def graph_figures(
    network: LinfLP,
    graph: nn.Module,
    exact: dict[str, NDArray[np.float32]],
    precision: str,
    named: str,
) -> list[Figures]:
    """Compare a graph with float32 at every scale.

    Args:
        network: LINF-LP in evaluation mode, with a learned prior.
        graph: Graph of `network`, in evaluation mode.
        exact: Outputs from `exact_outputs`.
        precision: Type of the heavy layers.
        named: Name of the row: islands or parts in that type.

    Returns:
        Differences at each scale.
    """
    deployment = deployment_of(network)
    emulator = HalfPrecisionEmulator(deployment, "fp32", None)
    emulator._graph = graph
    rows = []
    for scale, expected in exact.items():
        side = round(expected.shape[-1] / Fraction(scale))
        output = outputs(emulator, deployment, scale, side)
        rows.append(error_stats(precision, named, scale, expected, output))
    return rows


def error_stats(
    precision: str,
    named: str,
    scale: str,
    exact: NDArray[np.float32],
    output: NDArray[np.float32],
) -> Figures:
    """Compare clamped images.

    Args:
        precision: Type of the heavy layers.
        named: Name of the islands in that type.
        scale: Output pixels per input pixel.
        exact: Outputs in float32, (7, 3, H, W).
        output: Outputs with rounding.
    """
    difference = np.abs(np.clip(exact, 0, 1) - np.clip(output, 0, 1)).astype(np.float64)
    errors = difference.reshape(PHOTOGRAPHS, -1)
    return Figures(
        precision=precision,
        island=named,
        scale=scale,
        psnr=min(psnr(float(np.mean(row**2))) for row in errors),
        p999_steps=float(np.percentile(errors, 99.9, axis=1).max()) * EIGHT_BIT,
        max_steps=float(errors.max()) * EIGHT_BIT,
    )


def markdown(rows: list[Figures], title: str, scales: Sequence[str] = SCALES) -> str:
    """Return a table with one row for each island and one column for each scale."""
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        label = row.precision if title == "precision" else row.island
        values = f"{row.psnr:.1f} dB, {row.p999_steps:.2f}, {row.max_steps:.1f}"
        cells.setdefault((row.precision, row.island), [label]).append(values)
    columns = [title, *(f"×{scale}" for scale in scales)]
    return "\n".join(markdown_rows(columns, cells.values()))


def outputs(
    run: HalfPrecisionEmulator, deployment: Deployment, scale: str, lr: int
) -> NDArray[np.float32]:
    """Upscale the photographs, cropped to squares of `lr` pixels, to (7, 3, H, W)."""
    side = output_size(lr, Fraction(scale))
    case = Case((lr, lr), (side, side), PHOTOGRAPHS)
    return run.run(deployment.feeds(case, None))


def write_figures(rows: Sequence[Figures], path: Path | None) -> None:
    """Write the figures as JSON if there is a path."""
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
