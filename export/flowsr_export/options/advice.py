"""The advice that a command line adds to an error: a flag, or a command to run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["advice"]


def advice(command: click.Command, option: str | None, build: Mapping[str, Any] | None) -> str:
    """Return the text to append to an error's message, empty if there is none.

    Args:
        command: Command that failed.
        option: Argument that caused the error; see `FlowsrError.option`.
        build: Facts about an engine to build; see `FlowsrError.build`.
    """
    flag = _flag(command, option)
    return f" ({flag})" * bool(flag) + (f"; {_build_command(build)}" if build else "")


def _flag(command: click.Command, name: str | None) -> str | None:
    """Return the flag of a command, or of its subcommands, for an argument."""
    commands = [command]
    if isinstance(command, click.Group):
        commands += command.commands.values()
    for param in (param for known in commands for param in known.params):
        flags = [flag for flag in param.opts if flag.startswith("--")]
        if param.name == name and flags:
            return flags[0]
    return None


def _build_command(facts: Mapping[str, Any]) -> str:
    """Return the command line that builds a missing engine; see `FlowsrError.build`."""
    words = ["flowsr-export", "build-engine", str(facts["bundle"])]
    words += ["--flavour", str(facts["flavour"]).replace("_", "-")]
    for name in ("precision", "compute_capability", "memory_budget"):
        if name in facts:
            words += [f"--{name.replace('_', '-')}", str(facts[name])]
    if facts.get("halo") == "exact":
        words += ["--halo", "exact"]
    if "shapes" in facts:
        for bound, shape in facts["shapes"].items():
            words += [f"--{bound}-shapes", f"input:{'x'.join(map(str, shape))}"]
    elif "lr_size" in facts:
        height, width = facts["lr_size"]
        words += ["--picture", f"{width}x{height}"]
    if "scale" in facts:
        rows, columns = (f"{float(factor):.6g}" for factor in facts["scale"])
        words += ["--scale", rows if rows == columns else f"{columns}x{rows}"]
    return shlex.join(words)
