"""Write the reference of the commands from click, where a page says `<!-- commands -->`."""

from collections.abc import Iterator
from typing import Any

import click

from flowsr_export.cli import main

__all__ = ["MARK", "on_page_markdown"]

MARK = "<!-- commands -->"
COLUMNS = 96


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark by the help of every command, as `--help` prints it."""
    if MARK not in markdown:
        return markdown
    context = click.Context(main, info_name="flowsr-export", terminal_width=COLUMNS)
    text = f"```text\n{main.get_help(context)}\n```\n\n" + "\n".join(_sections(context))
    return markdown.replace(MARK, text)


def _sections(context: click.Context, level: int = 2) -> Iterator[str]:
    """Yield a section for each command of a group, hidden ones left out."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(
            command,
            parent=context,
            info_name=name,
            terminal_width=COLUMNS,
            help_option_names=["-h", "--help"],
        )
        words = inner.command_path.partition(" ")[2]
        yield f"{'#' * level} {words}\n\n```text\n{command.get_help(inner)}\n```\n"
        if isinstance(command, click.Group):
            yield from _sections(inner, level + 1)
