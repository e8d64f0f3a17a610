"""The advice that a command line adds to an error: a flag, or a command to run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from flowsr_export.options.speech import program

__all__ = ["advised"]

OPTIONS = {
    "precision": "--precision",
    "compute_capability": "--compute-capability",
    "device": "--device",
    "memory_budget": "--max-memory",
}


def advised(
    command: click.Command,
    message: str,
    option: str | None,
    build: Mapping[str, Any] | None,
) -> str:
    """Return an error's message with the flag that it is about, and the command to run.

    Args:
        command: Command that failed.
        message: Message of the error; "force=True" in it becomes "--force".
        option: Argument that caused the error; see `FlowsrError.option`.
        build: Facts about an engine to build; see `FlowsrError.build`.
    """
    flag = _flag(command, option)
    if flag is not None and f"{option}=True" in message:
        message, flag = message.replace(f"{option}=True", flag), None
    named = message if flag is None else f"{message} ({flag})"
    return f"{named}; {_build_command(build)}" if build else named


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
    words = [program(), "build-engine", str(facts["bundle"])]
    words += ["--flavor", str(facts["flavour"]).replace("_", "-")]
    for name, option in OPTIONS.items():
        if name in facts:
            words += [option, str(facts[name])]
    if facts.get("halo") == "exact":
        words += ["--halo", "exact"]
    if "shapes" in facts:
        for bound, shape in facts["shapes"].items():
            words += [f"--{bound}-shapes", f"input:{'x'.join(map(str, shape))}"]
    elif "lr_size" in facts:
        height, width = facts["lr_size"]
        words += ["--lr-size", f"{width}x{height}"]
    if "scale" in facts:
        rows, columns = (f"{float(factor):.6g}" for factor in facts["scale"])
        words += ["--scale", rows if rows == columns else f"{columns}x{rows}"]
    return shlex.join(words)
