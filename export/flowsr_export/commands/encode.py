"""The `encode` command."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.command import Command
from flowsr_export.options.session import session_options
from flowsr_export.options.shared import (
    FILE,
    force_option,
    json_option,
    value_option,
)
from flowsr_export.options.values import exact_scale_type

if TYPE_CHECKING:
    from flowsr_runtime import SessionSettings

__all__ = ["command"]


@click.command("encode", cls=Command)
@click.argument("bundle", type=FILE)
@click.argument("picture", metavar="IN", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="File of latents, .npz.")
@value_option(
    exact_scale_type,
    "--scale",
    help="Scale between IN and its low-resolution image, which is made by MATLAB's bicubic; a "
    "bundle of one scale needs none.",
)
@click.option("--lr", type=FILE, help="Low-resolution image of IN, instead of --scale.")
@session_options
@force_option
@json_option
def command(
    bundle: Path,
    picture: Path,
    output: Path,
    scale: Fraction | None,
    lr: Path | None,
    settings: SessionSettings,
    force: bool,
    as_json: bool,
) -> None:
    """Encode the picture IN to its latents, with BUNDLE.

    The latent is what the flow adds to the low-resolution image to give IN. The file of latents
    has the latent, or the several ones of SRFlow, their log-likelihood, the low-resolution
    image and the size; `decode` makes a picture of it. BUNDLE needs graphs of latents, which
    export-onnx --latents adds.

    \b
    Examples:
      flowsr-export encode edsr.bundle photo.png -o photo.npz --scale 4
      flowsr-export encode edsr.bundle photo.png -o photo.npz --lr small.png
      flowsr-export encode srflow.bundle photo.png -o photo.npz
    """
    from flowsr_export.reports.files import prepare_files, write_files
    from flowsr_runtime import Bundle, LatentCoder, OutputError, latents_bytes

    if scale is not None and lr is not None:
        raise click.UsageError("give at most one of --scale and --lr")
    if output.suffix.lower() != ".npz":
        raise OutputError(f"output must end in .npz, got {output}")
    prepare_files([output], force=force)
    opened = Bundle.open(bundle)
    if lr is None:
        scale = scale or opened.manifest.scale
        if scale is None:
            raise click.UsageError("give exactly one of --scale and --lr")
    target, image = _pair(picture, scale, lr)
    with LatentCoder.open(opened, settings) as coder:
        encoded = coder.encode(image, target)
    write_files({output: latents_bytes(encoded)})
    total = float(encoded.log_likelihood.sum(dtype="float64"))
    shapes = {name: list(values.shape) for name, values in encoded.latents.items()}
    if as_json:
        figures = {"log_likelihood": total, "bits_per_value": encoded.bits_per_value}
        facts = {"output": str(output), **shapes, "size": list(encoded.size)}
        click.echo(json.dumps({**facts, **figures}, indent=1))
        return
    texts = (
        f"{name} of {columns}x{rows} patches, {channels} channels"
        for name, (channels, rows, columns) in shapes.items()
    )
    click.echo(f"{output}  {'; '.join(texts)}")
    click.echo(f"log-likelihood {total:.1f} nats, {-encoded.bits_per_value:.3f} bits a value")


def _pair(picture: Path, scale: Fraction | None, lr: Path | None) -> tuple[Any, Any]:
    """Return the picture and its low-resolution image, (rows, columns, 3) each."""
    from flowsr_export.evaluation.imresize import matlab_bicubic
    from flowsr_runtime import read_picture
    from flowsr_runtime.errors import UsageError

    target = read_picture(picture)
    if lr is not None:
        return target.rgb, read_picture(lr).rgb
    assert scale is not None
    if target.depth != 8:
        raise UsageError(
            f"--scale needs a picture of 8 bits, got {target.depth}; give --lr", option="scale"
        )
    height, width = (max(1, round(side / scale)) for side in target.size)
    return target.rgb, matlab_bicubic(target.rgb, (height, width))
