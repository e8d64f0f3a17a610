"""How loud a command is: notes on stderr, `--quiet` and `--verbose`."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

__all__ = ["PROGRAM", "is_quiet", "is_verbose", "note", "program", "speaker", "speech_options"]

PROGRAM = "flowsr-export"
PACKAGES = ("flowsr_export", "flowsr_calibration", "flowsr_lp", "flowsr_runtime")
QUIET, VERBOSE = "flowsr_export.quiet", "flowsr_export.verbose"


def program(ctx: click.Context | None = None) -> str:
    """Return the name that the program was called by."""
    ctx = ctx or click.get_current_context(silent=True)
    return (ctx.find_root().info_name if ctx is not None else None) or PROGRAM


def is_quiet() -> bool:
    """Return whether only errors and results are printed."""
    return _is(QUIET)


def is_verbose() -> bool:
    """Return whether the log and the tracebacks of errors are printed."""
    return _is(VERBOSE)


def note(text: str) -> None:
    """Write a line that is neither a result nor an error to stderr, unless `--quiet`."""
    speaker()(text)


def speaker() -> Callable[[str], None]:
    """Return a `note` for other threads, which do not know the command line."""
    quiet, called = is_quiet(), program()

    def say(text: str) -> None:
        if not quiet:
            with suppress(OSError):  # a full disk at stderr is no reason to lose the work
                click.echo(f"{called}: {text}", err=True)

    return say


def speech_options() -> list[click.Parameter]:
    """Return `--quiet` and `--verbose`."""
    quiet = click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_set_quiet,
        help="Print errors and results only: no progress, no warnings.",
    )
    verbose = click.Option(
        ["-v", "--verbose"],
        is_flag=True,
        expose_value=False,
        callback=_set_verbose,
        help="Print versions, the log, the time and the traceback of an error on stderr.",
    )
    return [quiet, verbose]


def _set_quiet(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        _exclude(ctx, VERBOSE)
        ctx.meta[QUIET] = True
        _set_level(ctx, logging.ERROR)


def _set_verbose(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if not value or ctx.meta.get(VERBOSE):
        return
    _exclude(ctx, QUIET)
    ctx.meta[VERBOSE] = True
    _set_level(ctx, logging.DEBUG)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    began = time.monotonic()
    for name in PACKAGES:
        logging.getLogger(name).addHandler(handler)
    note(f"flowsr-lp {_version()}, Python {platform.python_version()}, {platform.platform()}")

    def end() -> None:
        note(f"ended after {time.monotonic() - began:.1f} s")
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(handler)

    ctx.find_root().call_on_close(end)


def _exclude(ctx: click.Context, other: str) -> None:
    if ctx.meta.get(other):
        raise click.UsageError("give at most one of --quiet and --verbose")


def _set_level(ctx: click.Context, level: int) -> None:
    """Set the level of our loggers until the program ends."""
    before = {name: logging.getLogger(name).level for name in PACKAGES}
    for name in PACKAGES:
        logging.getLogger(name).setLevel(level)

    def restore() -> None:
        for name, old in before.items():
            logging.getLogger(name).setLevel(old)

    ctx.find_root().call_on_close(restore)


def _is(key: str) -> bool:
    ctx = click.get_current_context(silent=True)
    return bool(ctx is not None and ctx.meta.get(key))


def _version() -> Any:
    from flowsr_export import __version__

    return __version__
