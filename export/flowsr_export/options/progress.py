"""A progress bar on stderr, for people: a pipe or a log file sees nothing of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

import click

__all__ = ["Progress", "progress"]

NOTE_COLUMNS = 32
REDRAWS = 500


class Progress:
    """Says how far a piece of work has come; `progress` makes one."""

    def __init__(self, bar: click._termui_impl.ProgressBar[str]) -> None:
        self._bar = bar

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move the bar on.

        Args:
            steps: Steps done since the last call, in the unit of the bar's total.
            note: What is being done now, cut to 32 characters.
        """
        self._bar.update(steps, note)

    def say(self, note: str) -> None:
        """Show what is being done now; the bar stays where it is.

        Args:
            note: As for `advance`.
        """
        self._bar.current_item = note
        self._bar.render_progress()


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show a bar with the share that is done and the time left, if stderr is a terminal.

    Args:
        label: What is being done.
        total: Steps of the whole work, in any unit.
        done: Steps that were done before.

    Yields:
        The bar, to be told of each step.
    """
    hidden = not sys.stderr.isatty()
    with click.progressbar(
        repeat("", total),
        length=max(total, 1),
        label=label,
        hidden=hidden,
        file=sys.stderr,
        item_show_func=_shorten,
        update_min_steps=max(total // REDRAWS, 1),
    ) as bar:
        shown = Progress(bar)
        if done:
            bar.update(done)
        yield shown


def _shorten(note: str | None) -> str | None:
    return None if note is None else note[-NOTE_COLUMNS:]
