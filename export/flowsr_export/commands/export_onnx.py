"""The `export-onnx` command."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.choice import run_command
from flowsr_export.options.command import Command
from flowsr_export.options.progress import step_progress
from flowsr_export.options.shared import (
    FILE,
    blocks_option,
    choice_option,
    force_option,
    json_option,
    value_option,
)
from flowsr_export.options.values import WholeRange, exact_scale_type

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Precision
    from flowsr_export.parity.compare import ErrorStats
    from flowsr_runtime import Bundle
    from flowsr_runtime.bundle.manifest import Io

__all__ = ["command"]


@click.command("export-onnx", cls=Command)
@click.option(
    "--model", type=FILE, show_default="the built-in model", help="LINF or SRFlow checkpoint."
)
@click.option(
    "--prior",
    type=FILE,
    help="Checkpoint of the learned prior; without it the graph takes latents.",
)
@blocks_option
@click.option("-o", "--output", type=FILE, required=True, help="Folder of the bundle.")
@choice_option(
    "--precision",
    ["fp32", "fp16", "bf16"],
    "Precision of the heavy layers; geometry, phase and flow stay float32.",
)
@value_option(
    exact_scale_type,
    "--scale",
    help="Export a graph with this one scale, such as 4 or 2.7, for whole images only.",
)
@click.option(
    "--opset",
    type=WholeRange(18, 19),
    show_default="18; 22 in bf16",
    help="ONNX operator set version; bf16 has its own.",
)
@choice_option(
    "--io",
    ["float32", "uint8"],
    "Image type of the graph; with uint8 the graph converts, clamps and rounds.",
)
@click.option(
    "--guard/--no-guard",
    default=None,
    show_default="as the checkpoint says",
    help="Shrink patches with values out of range.",
)
@force_option
@json_option
def command(
    model: Path | None,
    prior: Path | None,
    blocks: tuple[int, ...] | None,
    output: Path,
    precision: Precision,
    scale: Fraction | None,
    opset: int | None,
    io: Io,
    guard: bool | None,
    force: bool,
    as_json: bool,
) -> None:
    """Export checkpoints to a verified bundle.

    A LINF bundle serves any scale. An SRFlow bundle serves the scale of its network; with
    --scale, which must be that scale, its graph has the single input `input`, with even
    sides.

    The graph is linted and compared with PyTorch at sizes and scales that it was not traced
    with; a difference ends with exit code 3 and writes nothing. With --io uint8 the
    comparison also counts eight-bit steps, and upscale cannot detect an exploding inverse.

    \b
    Examples:
      flowsr-export export-onnx --model linf.pth --prior linf-LP.pth -o edsr.bundle
      flowsr-export export-onnx -o small-x4.bundle --scale 4
      flowsr-export export-onnx -o small.bundle --precision fp16 --io uint8
      flowsr-export export-onnx --model SRFlow_DF2K_4X.pth --prior SRFlow-LP.pth -o x4.bundle
    """
    import json

    from flowsr_runtime.bundle.directory import check_replaceable
    from flowsr_runtime.errors import UsageError

    if model is None and prior is not None:
        raise UsageError("--prior needs --model: the built-in model has its own prior")
    check_replaceable(output, force)

    from flowsr_export.deployment.traits import FAMILIES
    from flowsr_export.export_onnx.bundle import STEPS, build_bundle
    from flowsr_export.export_onnx.manifest import Request
    from flowsr_lp import embedded_checkpoint, load_checkpoint

    built_in = model is None
    if model is None:
        model, prior = embedded_checkpoint()
    checkpoint = load_checkpoint(model, prior, blocks)
    license_text = "Apache-2.0" if built_in else FAMILIES[checkpoint.family].license
    request = Request(precision, scale, opset, license_text, io, guard)
    with step_progress("export", len(STEPS)) as begin:
        bundle, stats = build_bundle(checkpoint, output, request, force, begin)
    if as_json:
        manifest = dict(bundle.manifest.raw)
        run = run_command(bundle, precision)
        content = {"path": str(output), "manifest": manifest, "run": run}
        click.echo(json.dumps(content, indent=1))
        return
    _print(bundle, precision, stats, license_text)


def _print(bundle: Bundle, precision: str, stats: list[ErrorStats], license_text: str) -> None:
    from flowsr_export.export_onnx.bundle import worst

    largest = worst(stats)
    size = bundle.manifest.files[f"model.{precision}.onnx"].bytes
    click.echo(f"{bundle.path}  {size / 1e6:.2f} MB")
    click.echo(
        f"agrees with PyTorch in {len(stats)} cases; worst {largest.max_abs:.1e} of full "
        f"range, {largest.max_steps} eight-bit steps, at {largest.case}"
    )
    click.echo(f"license of the weights: {license_text}")
    click.echo(f"run it: {run_command(bundle, precision)}")
