"""The `demo` command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.choice import say_choice
from flowsr_export.options.command import Command
from flowsr_export.options.session import session_options
from flowsr_export.options.shared import (
    FILE,
    bundle_argument,
    force_option,
    json_option,
    open_bundle,
)

if TYPE_CHECKING:
    from flowsr_runtime import SessionSettings

__all__ = ["command"]

PHOTOGRAPHS = ("honeybee", "chelsea")


@click.command("demo", cls=Command)
@click.option(
    "-o",
    "--output",
    "directory",
    type=FILE,
    default=Path("flowsr-demo"),
    show_default=True,
    help="Folder for demo.png and demo.json.",
)
@bundle_argument
@session_options
@force_option
@json_option
def command(
    directory: Path,
    bundle: Path | None,
    settings: SessionSettings,
    force: bool,
    as_json: bool,
) -> None:
    """Upscale two included photographs with BUNDLE, or the built-in model, beside bicubic.

    One photograph is upscaled 4 times, one 2.7 times. demo.png shows bicubic, the result and
    the original side by side, with details; demo.json has timings and PSNR.

    \b
    Example:
      flowsr-export demo -o build/demo
    """
    from flowsr_export.demo import demonstrate
    from flowsr_runtime import Upscaler

    opened = open_bundle(bundle)
    session, choice = settings.choose(opened)
    with Upscaler(opened, session, choice=choice) as upscaler:
        comparisons = demonstrate(upscaler, directory, PHOTOGRAPHS, force=force)
    say_choice(choice, settings)
    if as_json:
        rows = [dataclasses.asdict(row) for row in comparisons]
        path = str(directory / "demo.png")
        click.echo(json.dumps({"path": path, "pictures": rows}, indent=1, default=str))
        return
    for row in comparisons:
        sizes = f"{row.input[0]}x{row.input[1]} to {row.output[0]}x{row.output[1]}"
        click.echo(
            f"{row.picture:9} x{row.scale:4} {sizes:19} {row.seconds * 1000:6.0f} ms   "
            f"bicubic {row.psnr_bicubic:.2f} dB   flowsr-lp {row.psnr_flowsr:.2f} dB"
        )
    click.echo(directory / "demo.png")
