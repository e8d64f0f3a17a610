"""Commands and options of one form: help in sections, hidden old names, quiet and verbose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from flowsr_export.options.sections import section_of, sections
from flowsr_export.options.speech import PROGRAM, program, speech_options

__all__ = ["Choice", "Command", "Group", "Option", "dashes"]


def dashes(token: str) -> str:
    """Return a name of an option or of a choice with `-` for `_`."""
    return token.replace("_", "-")


class Option(click.Option):
    """An option that may have old names, which work and are not in the help."""

    def __init__(self, *args: Any, old: Sequence[str] = (), **attributes: Any) -> None:
        """Take the arguments of `click.Option`, and the old names in `old`."""
        super().__init__(*args, **attributes)
        self.old = tuple(old)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Add the option with all its names."""
        shown = self.opts
        self.opts = [*shown, *self.old]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown


class Choice(click.Choice[str]):
    """A choice that is shown with `-`, and taken with `-` and with `_`."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Return the choices between bars."""
        return dashes(super().get_metavar(param, ctx) or "")

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return the message for a value that is none of the choices."""
        shown = ", ".join(dashes(choice) for choice in self.choices)
        return f"{value!r} is not one of {shown}"


class Command(click.Command):
    """A command with its help in sections, and with `--quiet` and `--verbose`."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        """Take the arguments of `click.Command`."""
        attributes.setdefault("context_settings", {}).setdefault("token_normalize_func", dashes)
        super().__init__(*args, **attributes)
        self.params += speech_options()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under the headings of their sections."""
        _write_sections(self, ctx, formatter)

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, with the name that the program was called by."""
        return super().get_help(ctx).replace(PROGRAM, program(ctx))


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_sections(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their whole first sentences."""
        self.write_commands(ctx, formatter, "Commands", self.list_commands(ctx))

    def write_commands(
        self,
        ctx: click.Context,
        formatter: click.HelpFormatter,
        heading: str,
        names: Sequence[str],
    ) -> None:
        """Write some commands under a heading."""
        commands = {name: self.get_command(ctx, name) for name in names}
        rows = [
            (name, command.get_short_help_str(limit=1000))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, with the name that the program was called by."""
        return super().get_help(ctx).replace(PROGRAM, program(ctx))


def _write_sections(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in sections()}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None and isinstance(param, click.Option):
            rows[section_of(command.name, param.opts)].append(record)
    for heading, records in rows.items():
        if records:
            with formatter.section(heading):
                formatter.write_dl(records)
