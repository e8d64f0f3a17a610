"""The `decode` command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.command import Command
from flowsr_export.options.session import session_options
from flowsr_export.options.shared import FILE, force_option, json_option
from flowsr_export.options.values import FiniteRange

if TYPE_CHECKING:
    from flowsr_runtime import SessionSettings

__all__ = ["command"]


@click.command("decode", cls=Command)
@click.argument("bundle", type=FILE)
@click.argument("latents", metavar="LATENTS", type=FILE)
@click.option("-o", "--output", type=FILE, required=True, help="Output file, an image.")
@click.option(
    "--toward",
    type=FILE,
    help="File of latents of the same size to move the latent toward.",
)
@click.option(
    "--weight",
    type=FiniteRange(0, 1),
    show_default="0.5",
    help="Share of the latent of --toward: 0.5 is halfway, 1 is a transfer to the image of "
    "LATENTS.",
)
@session_options
@force_option
@json_option
def command(
    bundle: Path,
    latents: Path,
    output: Path,
    toward: Path | None,
    weight: float | None,
    settings: SessionSettings,
    force: bool,
    as_json: bool,
) -> None:
    """Decode the file LATENTS, which `encode` wrote, to an image, with BUNDLE.

    The latent of a picture decodes to that picture, to float rounding and eight bits. In a
    bundle with a guard, gray patches stay gray and values stay in range.

    \b
    Examples:
      flowsr-export decode edsr.bundle photo.npz -o photo.png
      flowsr-export decode edsr.bundle photo.npz -o halfway.png --toward sharp.npz
      flowsr-export decode edsr.bundle photo.npz -o transfer.png --toward sharp.npz --weight 1
    """
    import numpy as np

    from flowsr_runtime import (
        Bundle,
        LatentCoder,
        blend_latents,
        check_output,
        load_latents,
        write_picture,
    )
    from flowsr_runtime.pictures.pixels import store

    if weight is not None and toward is None:
        raise click.UsageError("--weight needs --toward")
    check_output(output, force)
    opened = Bundle.open(bundle)
    encoded = load_latents(latents)
    if toward is not None:
        share = 0.5 if weight is None else weight
        encoded = blend_latents(encoded, load_latents(toward), share)
    with LatentCoder.open(opened, settings) as coder:
        values = coder.decode(encoded)
    pixels = np.empty(values.shape, encoded.image.dtype)
    store(values, pixels, clamp=True, truncate=False)
    write_picture(output, pixels, force=force)
    if as_json:
        click.echo(json.dumps({"output": str(output), "size": list(encoded.size)}))
        return
    click.echo(f"{output}  {encoded.size[1]}x{encoded.size[0]}")
