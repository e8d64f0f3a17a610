"""The `doctor` command."""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING

import click

from flowsr_export.options.command import Command
from flowsr_export.options.shared import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowsr_export.machine.abilities import Ability
    from flowsr_export.machine.hardware import Device

__all__ = ["command"]


@click.command("doctor", cls=Command)
@json_option
def command(as_json: bool) -> None:
    """Say what this machine can do; list its libraries and its hardware.

    What it cannot do yet is listed with the remedy, and each missing library with its use and
    the command that installs it.

    \b
    Example:
      flowsr-export doctor
    """
    from flowsr_export.machine.abilities import abilities_of
    from flowsr_export.machine.libraries import examine

    found = examine()
    abilities = abilities_of(found)
    if as_json:
        able = {
            "can": [one.job for one in abilities if not one.missing],
            "cannot_yet": {one.job: list(one.missing) for one in abilities if one.missing},
        }
        click.echo(json.dumps({**able, **dataclasses.asdict(found)}, indent=2))
        return
    _print_abilities(abilities)
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
    cores = f"{device.cores} usable core{'' if device.cores == 1 else 's'}"
    click.echo(f"{'processor':13} {device.cpu}, {cores}")
    click.echo(f"{'container':13} {_limits(device)}")
    click.echo(f"{'instructions':13} {' '.join(device.instruction_sets) or 'unknown'}")
    memory = f"{_gib(device.memory_bytes)}, {_gib(device.available_bytes)} available"
    click.echo(f"{'memory':13} {memory}")
    for gpu in device.gpus:
        about = f"compute {gpu.compute_capability}, {gpu.memory_mib} MiB, driver {gpu.driver}"
        click.echo(f"{'CUDA device':13} {gpu.name}, {about}")
    if not device.gpus:
        click.echo(f"{'CUDA device':13} none found by nvidia-smi")
    state = "on" if found.telemetry else "off"
    value = os.environ.get("ORT_DISABLE_TELEMETRY", "not set")
    click.echo(f"{'telemetry':13} of ONNX Runtime {state} (ORT_DISABLE_TELEMETRY={value})")
    where = found.verdict_folder or "nowhere: there is no home directory"
    click.echo(f"{'self-tests':13} {len(found.self_tests) or 'none'} kept in {where}")
    for verdict in found.self_tests:
        click.echo(f"{'':13} {verdict}")


def _print_abilities(abilities: Sequence[Ability]) -> None:
    able = [one for one in abilities if not one.missing]
    unable = [one for one in abilities if one.missing]
    if able:
        click.echo("you can")
    for one in able:
        click.echo(f"  {one.job}")
    if unable:
        click.echo("you cannot yet")
    for one in unable:
        click.echo(f"  {one.job}: {'; '.join(one.missing)}")
    click.echo()


def _limits(device: Device) -> str:
    """Return the limits that a container sets, in words."""
    limits = []
    if device.processors is not None and device.cores < device.processors:
        limits.append(f"CPU quota of {device.cores} of {device.processors} cores")
    if device.memory_limit_bytes is not None:
        limits.append(f"memory limit {_gib(device.memory_limit_bytes)}")
    return ", ".join(limits) or "no CPU quota, no memory limit"


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
