"""The `doctor` command."""

from __future__ import annotations

import dataclasses
import json

import click

from flowsr_export.options.command import Command
from flowsr_export.options.shared import json_option

__all__ = ["command"]


@click.command("doctor", cls=Command)
@json_option
def command(as_json: bool) -> None:
    """List installed and missing libraries, and the hardware of this machine.

    Each missing library is listed with its use and the command that installs it.

    \b
    Example:
      flowsr-export doctor
    """
    from flowsr_export.machine.libraries import examine

    found = examine()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=2))
        return
    click.echo(f"flowsr-lp {found.version}, Python {found.python}\n")
    for part in found.parts:
        click.echo(f"{part.name:13} {part.version or 'missing':14} {part.gives}")
        if part.providers:
            click.echo(f"{'':28} providers: {', '.join(part.providers)}")
        if part.trouble:
            click.echo(f"{'':28} {part.trouble}")
        if part.version is None:
            click.echo(f"{'':28} {part.remedy}")
    device = found.device
    click.echo(f"\n{'system':13} {device.system}")
    click.echo(f"{'processor':13} {device.cpu}, {device.cores} usable cores")
    click.echo(f"{'instructions':13} {' '.join(device.instruction_sets) or 'unknown'}")
    memory = f"{_gib(device.memory_bytes)}, {_gib(device.available_bytes)} available"
    click.echo(f"{'memory':13} {memory}")
    for gpu in device.gpus:
        about = f"compute {gpu.compute_capability}, {gpu.memory_mib} MiB, driver {gpu.driver}"
        click.echo(f"{'CUDA device':13} {gpu.name}, {about}")
    if not device.gpus:
        click.echo(f"{'CUDA device':13} none found by nvidia-smi")


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
