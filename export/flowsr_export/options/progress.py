"""Progress bars on stderr; only a terminal shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import repeat

import click

__all__ = ["Progress", "counted_progress", "progress", "step_progress"]

NOTE_COLUMNS = 32
REDRAWS = 500


class Progress:
    """A progress bar, made by `progress`."""

    def __init__(self, bar: click._termui_impl.ProgressBar[str]) -> None:
        self._bar = bar

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Advance the bar.

        Args:
            steps: Steps done since the last call, in the unit of the bar's total.
            note: Name of the current work, cut to its last 32 characters.
        """
        self._bar.update(steps, note)

    def say(self, note: str) -> None:
        """Show a note without advancing the bar.

        Args:
            note: As for `advance`.
        """
        self._bar.current_item = note
        self._bar.render_progress()


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show a bar with the completed share and the remaining time, if stderr is a terminal.

    Args:
        label: Name of the work.
        total: Number of steps, in any unit.
        done: Steps completed by an earlier run.

    Yields:
        The bar.
    """
    with click.progressbar(
        repeat("", total),
        length=max(total, 1),
        label=label,
        hidden=not sys.stderr.isatty(),
        file=sys.stderr,
        item_show_func=lambda note: note and note[-NOTE_COLUMNS:],
        update_min_steps=max(total // REDRAWS, 1),
    ) as bar:
        shown = Progress(bar)
        if done:
            bar.update(done)
        yield shown


@contextmanager
def counted_progress(label: str) -> Iterator[tuple[Callable[..., None], Callable[..., None]]]:
    """Show a bar whose total becomes known during the work.

    Args:
        label: Name of the work.

    Yields:
        `start(total, done=0)`, which shows the bar, and `advance(note="", steps=1)`.
    """
    with ExitStack() as stack:
        bars: list[Progress] = []

        def start(total: int, done: int = 0) -> None:
            bars.append(stack.enter_context(progress(label, total, done)))

        def advance(note: str = "", steps: int = 1) -> None:
            bars[-1].advance(steps, note)

        yield start, advance


@contextmanager
def step_progress(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar for named steps, each of which is done when the next one begins.

    Args:
        label: Name of the work.
        total: Number of steps.

    Yields:
        A function to call with the name of each step when it begins.
    """
    with progress(label, total) as bar:
        finished = 0

        def begin(step: str) -> None:
            nonlocal finished
            bar.advance(finished, step)
            finished = 1

        yield begin
        bar.advance(finished)
