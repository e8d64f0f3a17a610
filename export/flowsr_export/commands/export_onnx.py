"""The `export-onnx` command."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from flowsr_export.options.choice import run_command
from flowsr_export.options.command import Command
from flowsr_export.options.progress import step_progress
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    blocks_option,
    choice_option,
    flag,
    force_option,
    json_option,
    packs,
    value_option,
)
from flowsr_export.options.values import WholeRange, exact_scale_type, parse_sizes

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Deployment, Precision
    from flowsr_export.export_onnx.size_fixed import SizeFixed
    from flowsr_export.parity.compare import ErrorStats
    from flowsr_runtime import Bundle
    from flowsr_runtime.bundle.manifest import Io

__all__ = ["command"]


@dataclass(frozen=True)
class Sizes:
    """Values of --scale, --lr-size, --batch, --stages and --latents."""

    scale: Fraction | None
    lr_sizes: list[tuple[int, int]] | None
    batch: int | None
    stages: bool
    latents: bool

    def __post_init__(self) -> None:
        """Refuse a batch without size-fixed graphs."""
        if self.batch is not None and not self.lr_sizes:
            from flowsr_runtime.errors import UsageError

            raise UsageError("--batch needs --lr-size")

    def of(self, deployment: Deployment, scale: Fraction | None) -> SizeFixed | None:
        """Return the sizes of size-fixed graphs at a scale, None without any."""
        from flowsr_export.export_onnx.size_fixed import size_fixed

        if not self.lr_sizes:
            return None
        return size_fixed(deployment, scale, self.lr_sizes, self.batch or 1)


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
@click.option("-o", "--output", type=FILE, help="Folder of a new bundle.")
@click.option(
    "--bundle",
    type=FILE,
    help="Bundle to add a precision, size-fixed graphs or stages to, instead of a new one.",
)
@choice_option(
    "--precision",
    ["fp32", "fp16", "bf16"],
    "Precision of the heavy layers; geometry, phase and flow stay float32.",
)
@packs(
    Sizes,
    value_option(
        exact_scale_type,
        "--scale",
        help="Export a graph with this one scale, such as 4 or 2.7, for whole images only; "
        "with --lr-size the scale of the size-fixed graphs.",
    ),
    value_option(
        parse_sizes,
        "--lr-size",
        "lr_sizes",
        help="Low-resolution sizes to add size-fixed graphs for, joined by commas; their "
        "geometry is all constant.",
    ),
    click.option(
        "--batch",
        type=POSITIVE,
        show_default="1",
        help="Number of images per run of the size-fixed graphs.",
    ),
    flag(
        "--stages",
        "Also write the graph of any scale in two stages: then several scales of one image "
        "share its encoder.",
    ),
    flag(
        "--latents",
        "Also write graphs that encode a picture to its latent and decode any latent, for "
        "encode, decode, and --temperature beside a learned prior.",
    ),
    name="sizes",
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
@click.pass_context
def command(
    context: click.Context,
    model: Path | None,
    prior: Path | None,
    blocks: tuple[int, ...] | None,
    output: Path | None,
    bundle: Path | None,
    precision: Precision,
    sizes: Sizes,
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

    --lr-size adds graphs for images of these sizes at one --scale, beside the graph of any
    size. They hold no shape operator and no tensor of more than four dimensions. upscale,
    bench and verify take them for their size.

    --stages adds two graphs that together equal the graph of any scale, which this checks:
    features of an image, and what each scale costs. upscale takes them with several scales.

    The graph is linted and compared with PyTorch at sizes and scales that it was not traced
    with; a difference ends with exit code 3 and writes nothing. With --io uint8 the
    comparison also counts eight-bit steps, and upscale cannot detect an exploding inverse.

    \b
    Examples:
      flowsr-export export-onnx --model linf.pth --prior linf-LP.pth -o edsr.bundle
      flowsr-export export-onnx -o small-x4.bundle --scale 4
      flowsr-export export-onnx -o small.bundle --precision fp16 --io uint8
      flowsr-export export-onnx --model SRFlow_DF2K_4X.pth --prior SRFlow-LP.pth -o x4.bundle
      flowsr-export export-onnx -o small.bundle --scale 4 --lr-size 480x270,128x128
      flowsr-export export-onnx --bundle small.bundle --scale 4 --lr-size 960x540
      flowsr-export export-onnx --bundle small.bundle --stages --latents
    """
    from flowsr_runtime.errors import UsageError

    if model is None and prior is not None:
        raise UsageError("--prior needs --model: the built-in model has its own prior")
    if bundle is not None:
        _check_added(context, output, sizes)
        done = _extended(bundle, model, prior, precision, opset, sizes)
    else:
        form = precision, opset, io, guard
        done = _written(output, model, prior, blocks, form, sizes, force)
    _print(*done, precision, as_json)


def _check_added(context: click.Context, output: Path | None, sizes: Sizes) -> None:
    """Refuse options of a new bundle beside --bundle."""
    from flowsr_runtime.errors import UsageError

    if output is not None:
        raise UsageError("--output and --bundle exclude each other")
    typed = ParameterSource.COMMANDLINE
    for name in ("blocks", "io", "guard", "force"):
        if context.get_parameter_source(name) == typed:
            raise UsageError(
                f"--{name} and --bundle exclude each other: the bundle has its own"
            )
    if sizes.scale is not None and not sizes.lr_sizes:
        raise UsageError("--scale needs --lr-size beside --bundle")


def _written(
    output: Path | None,
    model: Path | None,
    prior: Path | None,
    blocks: tuple[int, ...] | None,
    form: tuple[Precision, int | None, Io, bool | None],
    sizes: Sizes,
    force: bool,
) -> tuple[Bundle, list[ErrorStats]]:
    """Export a new bundle."""
    from flowsr_runtime.bundle.directory import check_replaceable
    from flowsr_runtime.errors import UsageError

    if output is None:
        raise UsageError(
            "missing option '-o' / '--output' for a new bundle, or --bundle to add to one"
        )
    check_replaceable(output, force)

    from flowsr_export.deployment.families import deployment_of
    from flowsr_export.deployment.traits import FAMILIES
    from flowsr_export.export_onnx.bundle import build_bundle
    from flowsr_export.export_onnx.manifest import Request
    from flowsr_export.export_onnx.model import STEPS
    from flowsr_lp import embedded_checkpoint, load_checkpoint

    built_in = model is None
    if model is None:
        model, prior = embedded_checkpoint()
    checkpoint = load_checkpoint(model, prior, blocks)
    license_text = "Apache-2.0" if built_in else FAMILIES[checkpoint.family].license
    precision, opset, io, guard = form
    fixed = sizes.of(deployment_of(checkpoint.network), sizes.scale)
    # Size-fixed graphs lie beside the graph of any size and, where there is one, any scale.
    scale = sizes.scale if fixed is None else None
    request = Request(precision, scale, opset, license_text, io, guard)
    count = len(STEPS) + (len(fixed.cases) if fixed else 0) + sizes.stages + sizes.latents
    with step_progress("export", count) as begin:
        further = {"stages": sizes.stages, "latents": sizes.latents}
        return build_bundle(checkpoint, output, request, force, begin, fixed, **further)


def _extended(
    path: Path,
    model: Path | None,
    prior: Path | None,
    precision: Precision,
    opset: int | None,
    sizes: Sizes,
) -> tuple[Bundle, list[ErrorStats]]:
    """Add a precision, size-fixed graphs or stages to a bundle."""
    from flowsr_export.deployment.families import deployment_of
    from flowsr_export.export_onnx.bundle import add_precision
    from flowsr_export.export_onnx.latents import add_latents
    from flowsr_export.export_onnx.manifest import Request
    from flowsr_export.export_onnx.model import STEPS
    from flowsr_export.export_onnx.size_fixed import add_size_fixed
    from flowsr_export.export_onnx.stages import add_stages
    from flowsr_export.parity.reference import reference_of
    from flowsr_runtime import Bundle, UsageError

    bundle = Bundle.open(path)
    adds = precision not in bundle.precisions
    if not (adds or sizes.lr_sizes or sizes.stages or sizes.latents):
        raise UsageError(
            f"{path} holds {precision} already; give --lr-size, --stages, --latents or another "
            "--precision"
        )
    checkpoint = reference_of(bundle, model, prior)
    scale = sizes.scale or bundle.manifest.scale
    fixed = sizes.of(deployment_of(checkpoint.network), scale)
    stats: list[ErrorStats] = []
    count = (len(STEPS) if adds else 1) + (len(fixed.cases) if fixed else 0)
    count += sizes.stages + sizes.latents
    with step_progress("export", count) as begin:
        if adds:
            bundle, stats = add_precision(bundle, checkpoint, precision, begin)
        if fixed is not None:
            request = Request(precision, fixed.scale, opset)
            bundle, more = add_size_fixed(bundle, checkpoint, request, fixed, begin)
            stats = [*stats, *more]
        if sizes.stages:
            bundle = add_stages(bundle, checkpoint, Request(precision, None, opset), begin)
        if sizes.latents:
            bundle = add_latents(bundle, checkpoint, Request(precision, None, opset), begin)
    return bundle, stats


def _print(bundle: Bundle, stats: list[ErrorStats], precision: str, as_json: bool) -> None:
    import json

    from flowsr_export.export_onnx.model import worst

    manifest, run = bundle.manifest, run_command(bundle, precision)
    if as_json:
        content = {"path": str(bundle.path), "manifest": dict(manifest.raw), "run": run}
        click.echo(json.dumps(content, indent=1))
        return
    size = manifest.files[bundle.model_name(precision)].bytes
    click.echo(f"{bundle.path}  {size / 1e6:.2f} MB")
    for graph in bundle.size_fixed(precision):
        click.echo(f"{graph.file}  {manifest.files[graph.file].bytes / 1e6:.2f} MB")
    if stats:
        largest = worst(stats)
        click.echo(
            f"agrees with PyTorch in {len(stats)} cases; worst {largest.max_abs:.1e} of full "
            f"range, {largest.max_steps} eight-bit steps, at {largest.case}"
        )
    pair = bundle.stage_graphs(precision)
    if pair is not None:
        verified = manifest.raw["files"][pair.query]["verification"]
        click.echo(
            f"{pair.features} and {pair.query} equal the whole graph within "
            f"{verified['whole_graph_max_abs']:.1e}"
        )
    if manifest.latent_graphs is not None:
        click.echo("latents: encode, decode, and --temperature beside the prior")
    click.echo(f"license of the weights: {manifest.raw['model']['licence']}")
    click.echo(f"run it: {run}")
