"""The command line: load commands on demand, turn errors into one line and an exit code."""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import Any, NoReturn

import click

__all__ = ["main"]

COMMAND_MODULES = {
    "upscale": "flowsr_export.commands.upscale",
    "inspect": "flowsr_export.commands.inspect",
    "export-onnx": "flowsr_export.commands.export_onnx",
    "calibrate": "flowsr_export.commands.calibrate",
    "build-engine": "flowsr_export.commands.build_engine",
    "engines": "flowsr_export.commands.engines",
    "verify": "flowsr_export.commands.verify",
    "bench": "flowsr_export.commands.bench",
    "evaluate": "flowsr_export.commands.evaluate",
    "serve": "flowsr_export.commands.serve",
    "serve-bundle": "flowsr_export.commands.serve_bundle",
    "train": "flowsr_export.commands.train",
    "fetch": "flowsr_export.commands.fetch",
    "doctor": "flowsr_export.commands.doctor",
    "demo": "flowsr_export.commands.demo",
}

EXIT_CODES = """\b
Exit codes:
  0    done
  1    failure
  2    usage
  3    parity or quality gate missed
  4    a backend, provider or device is missing
  5    a file is damaged, stale or for another device
  6    out of memory
  7    slower than before by more than the threshold
  130  interrupted
"""

MISSING = 4
OUT_OF_MEMORY = 6
INTERRUPTED = 130

# Optional libraries and the extra that installs each.
EXTRAS = {
    "fastapi": "serve",
    "jinja2": "bench",
    "matplotlib": "bench",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "polygraphy": "export",
    "prometheus_client": "serve",
    "psutil": "bench",
    "pydantic": "serve",
    "safetensors": "export",
    "torch": "export",
    "uvicorn": "serve",
}
# PyTorch's messages for a failed allocation, on the CPU and on a GPU.
NO_MEMORY = ("can't allocate memory", "out of memory")


class LazyGroup(click.Group):
    """Load the module of a command when it is used; end with one line on an error.

    No command waits for the libraries of another one, or translates errors itself.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands, the most used first."""
        return list(COMMAND_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMAND_MODULES:
            return None
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
        except (KeyboardInterrupt, click.Abort):
            _end(ctx, "interrupted", INTERRUPTED)
        except Exception as error:
            ending = _ending(error)
            if ending is None:
                raise
            message, exit_code = ending
            _end(ctx, f"{message}{self._advice(ctx, error)}", exit_code)

    def _advice(self, ctx: click.Context, error: Exception) -> str:
        """Return the flag that an error is about, and the command that builds an engine."""
        from flowsr_export.options.advice import advice

        command = self.get_command(ctx, ctx.invoked_subcommand or "")
        option, facts = getattr(error, "option", None), getattr(error, "build", None)
        return "" if command is None else advice(command, option, facts)


@click.group(
    cls=LazyGroup,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)
@click.version_option(package_name="flowsr-lp", message="flowsr-export %(version)s")
def main() -> None:
    """Upscale images with FlowSR-LP, and export, calibrate, verify and serve its models.

    A bundle is a folder with an ONNX graph and the metadata to run it. One is built in:
    `flowsr-export upscale photo.png -o large.png --scale 4`.
    """
    # Pillow and tifffile warn about unreadable metadata; keep stderr for our own messages.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def _usage(error: click.ClickException) -> str:
    """Return the problem of a command line, and the command that shows the help."""
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return message if context is None else f"{message}; see {context.command_path} --help"


def _ending(error: Exception) -> tuple[str, int] | None:
    """Return the line and the exit code of an error, None for a bug."""
    from flowsr_runtime.errors import FlowsrError

    if isinstance(error, FlowsrError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return str(error) or "out of memory", OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY):
        return "out of memory", OUT_OF_MEMORY
    library = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ImportError) and library in EXTRAS:
        if isinstance(error, ModuleNotFoundError):
            remedy = f"pip install 'flowsr-lp[{EXTRAS[library]}]'"
            return f"{library} is not installed; {remedy}", MISSING
        return f"{library} cannot be loaded: {error}", MISSING
    return None


def _end(ctx: click.Context, message: str, exit_code: int) -> NoReturn:
    """Write one line to stderr and exit."""
    click.echo(f"flowsr-export: {' '.join(message.split())}", err=True)
    ctx.exit(exit_code)
