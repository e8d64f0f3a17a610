"""State which backend, provider and precision were chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flowsr_runtime import SessionSettings
    from flowsr_runtime.backends.session import Choice

__all__ = ["choice_record", "say_choice"]


def say_choice(choice: Choice | None, asked: SessionSettings) -> None:
    """Print one line on stderr, unless backend and precision were named.

    Args:
        choice: How the bundle is run, None if no bundle is.
        asked: Settings of the command line.
    """
    if choice is None or "auto" not in (asked.backend, asked.precision):
        return
    reasons = "".join(f"; not {name}: {why}" for name, why in choice.passed_over.items())
    click.echo(f"flowsr-export: runs on {choice}{reasons}", err=True)


def choice_record(choice: Choice | None) -> dict[str, Any] | None:
    """Return the choice as the `runs_on` of `--json`."""
    return None if choice is None else choice.as_dict()
