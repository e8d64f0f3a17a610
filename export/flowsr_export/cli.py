"""The command line: load commands on demand, turn errors into one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from flowsr_export import __version__
from flowsr_export.options.command import Choice, Command, Group, dashes
from flowsr_export.options.shared import json_option
from flowsr_export.options.speech import PROGRAM, is_verbose, program, speech_options

__all__ = ["main"]

# Names by job; a command's module has its name with `_` for `-`. `completion` is in this one.
COMMANDS = {
    "Use": ("upscale", "encode", "decode", "inspect", "demo", "doctor", "completion"),
    "Make": ("export-onnx", "calibrate", "build-engine", "engines", "train", "fetch"),
    "Judge": ("verify", "bench", "evaluate", "reproduce"),
    "Serve": ("serve", "serve-bundle"),
}
COMMAND_MODULES = {
    name: f"flowsr_export.commands.{name.replace('-', '_')}"
    for names in COMMANDS.values()
    for name in names
    if name != "completion"
}
PROGRAMS = ("flowsr", PROGRAM)

EXIT_CODES = """\b
Exit codes:
  0    done
  1    failure
  2    usage
  3    parity or quality gate missed
  4    a backend, provider or device is missing
  5    an input is missing, damaged, stale or for another device
  6    out of memory
  7    slower than before, or than a limit
  130  interrupted
"""

FAILURE = 1
MISSING = 4
BAD_INPUT = 5
OUT_OF_MEMORY = 6
INTERRUPTED = 130

# PyTorch's messages for a failed allocation, on the CPU and on a GPU.
NO_MEMORY = ("can't allocate memory", "out of memory")

BAD_PATHS = (
    *(errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOTDIR, errno.EPERM),
)
"""Errors of the operating system about a path that was given."""


class LazyGroup(Group):
    """Load the module of a command when it is used; end with one line on an error.

    No command waits for the libraries of another one, or translates errors itself.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the program; a stream that cannot be written ends it with one line."""
        try:
            return super().main(*args, **extra)
        except OSError as error:  # from --help and --version, which run before a command
            if error.errno != errno.ENOSPC:
                raise
            with suppress(OSError):
                click.echo(f"{PROGRAM}: {_os_ending(error)[0]}", err=True)
            sys.exit(FAILURE)
        finally:
            _flush_streams()

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Return the context, under the name that the program was called by."""
        # ONNX Runtime 1.29 and newer reports to its makers unless its import finds this set.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        if None in (sys.stdin, sys.stdout, sys.stderr):  # the caller has closed it
            from flowsr_runtime.streams import open_streams

            open_streams()
        for stream in (sys.stdout, sys.stderr):  # file names need not be text of the locale
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        name = info_name if info_name in PROGRAMS else PROGRAM
        return super().make_context(name, args, parent, **extra)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options before the command; an error ends with one line."""
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _end(ctx, _usage(error), error.exit_code)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, the most used first."""
        return [name for names in COMMANDS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in groups by job."""
        for heading, names in COMMANDS.items():
            self.write_commands(ctx, formatter, heading, names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMAND_MODULES:
            return super().get_command(ctx, cmd_name)
        command = importlib.import_module(COMMAND_MODULES[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error ends it with one line and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit):
            raise
        except click.ClickException as error:
            _end(ctx, _usage(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort) as error:
            _end(ctx, "; ".join(filter(None, ["interrupted", str(error)])), INTERRUPTED)
        except Exception as error:
            ending = _ending(error, ctx.invoked_subcommand or "")
            if ending is None:
                raise
            message, exit_code = ending
            if is_verbose():
                click.echo(traceback.format_exc(), err=True)
            _end(ctx, self._advised(ctx, message, error), exit_code)

    def _advised(self, ctx: click.Context, message: str, error: Exception) -> str:
        """Add the flag that an error is about, and the command that builds an engine."""
        from flowsr_export.options.advice import advised

        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        option, facts = getattr(error, "option", None), getattr(error, "build", None)
        return message if command is None else advised(command, message, option, facts)


@click.group(
    PROGRAM,
    cls=LazyGroup,
    epilog=EXIT_CODES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 96,
        "token_normalize_func": dashes,
    },
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Upscale images with FlowSR-LP, and export, calibrate, verify and serve its models.

    A bundle is a folder with an ONNX graph and the metadata to run it. One is built in:
    `flowsr-export upscale photo.png -o large.png --scale 4`.
    """
    # Pillow and tifffile warn about unreadable metadata; keep stderr for our own messages.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


main.params += speech_options()


@main.command("completion", cls=Command)
@click.argument("shell", metavar="SHELL", type=Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def completion(context: click.Context, shell: str, as_json: bool) -> None:
    """Print a script that completes commands and options in SHELL: bash, zsh or fish.

    \b
    Examples:
      source <(flowsr-export completion bash)
      flowsr-export completion bash >> ~/.bashrc
      flowsr-export completion fish > ~/.config/fish/completions/flowsr-export.fish
    """
    from click.shell_completion import get_completion_class

    scripts = get_completion_class(shell)
    assert scripts is not None
    root = context.find_root().command
    script = "\n".join(
        scripts(root, {}, name, f"_{name.replace('-', '_').upper()}_COMPLETE").source()
        for name in PROGRAMS
    )
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)


def _flush_streams() -> None:
    """Write what is left, or give it up on a full disk, which was reported before."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        from flowsr_runtime.streams import give_up_full_streams

        give_up_full_streams()


def _usage(error: click.ClickException) -> str:
    """Return the problem of a command line, and the command that shows the help."""
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}; see {context.command_path} --help"


def _ending(error: Exception, command: str) -> tuple[str, int] | None:
    """Return the line and the exit code of an error of a command, None for a bug."""
    from flowsr_runtime.backends.library_errors import NO_THREADS, is_out_of_threads
    from flowsr_runtime.errors import FlowsrError

    if isinstance(error, ImportError):
        from flowsr_export.machine.extras import lacking

        message = lacking(error, command)
        if message is not None:
            return message, MISSING
    if isinstance(error, FlowsrError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return str(error) or "out of memory", OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY):
        return "out of memory", OUT_OF_MEMORY
    if isinstance(error, (OSError, RuntimeError)) and is_out_of_threads(error):
        return NO_THREADS, OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno not in (
        None,
        errno.EPIPE,
    ):  # click ends on a pipe
        return _os_ending(error)
    return None


def _os_ending(error: OSError) -> tuple[str, int]:
    """Return the line and the exit code of an error of the operating system."""
    reason = error.strerror or str(error)
    message = reason if error.filename is None else f"{os.fspath(error.filename)}: {reason}"
    if error.errno == errno.ENOMEM:
        return message, OUT_OF_MEMORY
    return message, BAD_INPUT if error.errno in BAD_PATHS else FAILURE


def _end(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    """Write one line to stderr, if it can be written, and exit."""
    with suppress(OSError):
        click.echo(f"{program(ctx)}: {' '.join(message.split())}", err=True)
    ctx.exit(exit_code)
