"""The `demo` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.choice import say_choice
from flowsr_export.options.session import session_options
from flowsr_export.options.shared import FILE, force_option, open_bundle

if TYPE_CHECKING:
    from flowsr_runtime import SessionSettings

__all__ = ["command"]

PHOTOGRAPHS = ("honeybee", "chelsea")


@click.command("demo")
@click.option(
    "-o",
    "--output",
    "directory",
    type=FILE,
    default=Path("flowsr-demo"),
    show_default=True,
    help="Folder for demo.png and demo.json.",
)
@click.option("--bundle", type=FILE, show_default="the built-in model", help="Bundle to run.")
@session_options
@force_option
def command(
    directory: Path, bundle: Path | None, settings: SessionSettings, force: bool
) -> None:
    """Upscale two included photographs and compare the results with bicubic.

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
    for row in comparisons:
        sizes = f"{row.input[0]}x{row.input[1]} to {row.output[0]}x{row.output[1]}"
        click.echo(
            f"{row.picture:9} x{row.scale:4} {sizes:19} {row.seconds * 1000:6.0f} ms   "
            f"bicubic {row.psnr_bicubic:.2f} dB   flowsr-lp {row.psnr_flowsr:.2f} dB"
        )
    click.echo(directory / "demo.png")
