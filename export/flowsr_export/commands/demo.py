"""The `demo` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flowsr_export.options.session import force_option, session_options

if TYPE_CHECKING:
    from flowsr_runtime import SessionSettings

__all__ = ["command"]

PHOTOGRAPHS = ("honeybee", "chelsea")


@click.command("demo")
@click.option(
    "-o",
    "--output",
    "directory",
    type=click.Path(path_type=Path),
    default=Path("flowsr-demo"),
    show_default=True,
    help="Folder for demo.png and demo.json.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="Instead of the built-in one.")
@session_options
@force_option
def command(
    directory: Path,
    bundle: Path | None,
    settings: SessionSettings,
    force: bool,
) -> None:
    """Enlarge shipped photographs and compare.

    One ×4 and one ×2.7: a sheet, demo.png, lays bicubic and the result side by side, with
    details of both and of the original. The timings and figures go to demo.json too.

    \b
    Example:
      flowsr-export demo -o build/demo
    """
    from flowsr_export.demo import demonstrate
    from flowsr_runtime import Bundle, Upscaler, embedded_bundle

    opened = Bundle.open(embedded_bundle() if bundle is None else bundle)
    with Upscaler(opened, settings.open(opened)) as upscaler:
        comparisons = demonstrate(upscaler, directory, PHOTOGRAPHS, force=force)
    for done in comparisons:
        sizes = f"{done.input[0]}x{done.input[1]} to {done.output[0]}x{done.output[1]}"
        click.echo(
            f"{done.picture:9} x{done.scale:4} {sizes:19} {done.seconds * 1000:6.0f} ms   "
            f"bicubic {done.psnr_bicubic:.2f} dB   flowsr-lp {done.psnr_flowsr:.2f} dB"
        )
    click.echo(directory / "demo.png")
