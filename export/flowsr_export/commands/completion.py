"""The `completion` command."""

from __future__ import annotations

import json

import click
from click.shell_completion import get_completion_class

from flowsr_export.options.command import Choice, Command
from flowsr_export.options.shared import json_option
from flowsr_export.options.speech import PROGRAM

__all__ = ["command"]

PROGRAMS = ("flowsr", PROGRAM)


@click.command("completion", cls=Command)
@click.argument("shell", metavar="SHELL", type=Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def command(context: click.Context, shell: str, as_json: bool) -> None:
    """Print a script that completes commands and options in SHELL: bash, zsh or fish.

    \b
    Examples:
      source <(flowsr-export completion bash)
      flowsr-export completion bash >> ~/.bashrc
      flowsr-export completion fish > ~/.config/fish/completions/flowsr-export.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None
    root = context.find_root().command
    script = "\n".join(
        completion(root, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source()
        for name in PROGRAMS
    )
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)
