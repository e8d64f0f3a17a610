"""Progress on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Thread
from typing import Protocol

import click

from flowsr_export.options.speech import is_quiet, speaker

__all__ = ["Progress", "counted_progress", "item_lines", "progress", "step_progress"]

LINE_SECONDS = 30.0
NOTE_COLUMNS = 32
REDRAWS = 500


class Progress(Protocol):
    """How far some work is, made by `progress`."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Advance.

        Args:
            steps: Steps done since the last call, in the unit of the total.
            note: Name of the current work; a bar shows its last 32 characters.
        """

    def say(self, note: str) -> None:
        """Show a note without advancing.

        Args:
            note: As for `advance`.
        """


class _Bar:
    """A bar on a terminal, or nothing."""

    def __init__(self, bar: click._termui_impl.ProgressBar[str]) -> None:
        self._bar = bar

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._bar.update(steps, note)

    def say(self, note: str) -> None:
        self._bar.current_item = note
        self._bar.render_progress()


class _Lines:
    """Lines for a log: one every `LINE_SECONDS` while the work goes on."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._done, self._note = label, total, done, ""
        self._began = time.monotonic()
        self._ended = Event()
        self._stream = sys.stderr
        self._thread = Thread(target=self._run, name="flowsr-progress", daemon=True)
        self._thread.start()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        self.say(note)

    def say(self, note: str) -> None:
        self._note = note or self._note

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(LINE_SECONDS):
            share = f"{min(self._done / max(self._total, 1), 1):.0%}"
            parts = [share, f"after {time.monotonic() - self._began:.0f} s", self._note]
            line = f"{self._label} {', '.join(filter(None, parts))}"
            with suppress(OSError):  # the work goes on
                click.echo(line, file=self._stream)


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show the completed share and the remaining time of some work, unless `--quiet`.

    Args:
        label: Name of the work.
        total: Number of steps, in any unit.
        done: Steps completed by an earlier run.

    Yields:
        A bar if stderr is a terminal, else a writer of lines.
    """
    if not sys.stderr.isatty() and not is_quiet():
        lines = _Lines(label, total, done)
        try:
            yield lines
        finally:
            lines.end()
        return
    with click.progressbar(
        itertools.repeat("", total),
        length=max(total, 1),
        label=label,
        hidden=is_quiet(),
        file=sys.stderr,
        item_show_func=lambda note: note and note[-NOTE_COLUMNS:],
        update_min_steps=max(total // REDRAWS, 1),
    ) as bar:
        if done:
            bar.update(done)
        yield _Bar(bar)


def item_lines(total: int) -> Callable[[str], None]:
    """Return a function to call with the name of each finished item, from any thread.

    It writes a line where `progress` shows no bar, if there are several items.

    Args:
        total: Number of items.
    """
    shown = total > 1 and not sys.stderr.isatty()
    say, count = speaker(), itertools.count(1)

    def line(name: str) -> None:
        if shown:
            say(f"{name}, {next(count)} of {total}")

    return line


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
