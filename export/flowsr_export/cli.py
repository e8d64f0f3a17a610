"""The command line: one group, commands loaded when used, errors turned into exit codes."""

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
  5    an artefact is damaged, stale or for another device
  6    out of memory
  7    slower than before by more than the threshold
  130  interrupted
"""

MISSING = 4
OUT_OF_MEMORY = 6
INTERRUPTED = 130

# Libraries that not every installation has, and the extra that brings each.
EXTRAS = {
    "fastapi": "serve",
    "jinja2": "export",
    "matplotlib": "bench",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "polygraphy": "export",
    "prometheus_client": "serve",
    "psutil": "bench",
    "safetensors": "export",
    "torch": "export",
    "uvicorn": "serve",
}
# How PyTorch words a failed allocation, on the CPU and on a GPU.
NO_MEMORY = ("can't allocate memory", "out of memory")


class LazyGroup(click.Group):
    """Load a command's module when the command is asked for; end with one line on an error.

    The libraries that a command needs stay out of the way of every other command, and no
    command translates errors itself.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands' names, the most used first."""
        return list(COMMAND_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module that holds a command."""
        if cmd_name not in COMMAND_MODULES:
            return None
        command = importlib.import_module(COMMAND_MODULES[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for; errors of ours become a line and a code."""
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
            _end(ctx, *ending)


@click.group(
    cls=LazyGroup,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)
@click.version_option(package_name="flowsr-lp", message="flowsr-export %(version)s")
def main() -> None:
    """Enlarge pictures with FlowSR-LP and make the bundles that do it.

    A bundle is a folder with an ONNX graph and what a runtime needs to know about it. One
    is built in: `flowsr-export upscale photo.png -o large.png --scale 4`.
    """
    # Both remark on metadata that they cannot read; standard error holds our lines alone.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


def _usage(error: click.ClickException) -> str:
    """Return what is wrong with a command line, and where its help is."""
    message = error.format_message().rstrip(".")
    about = error.ctx if isinstance(error, click.UsageError) else None
    return message if about is None else f"{message}; see {about.command_path} --help"


def _ending(error: Exception) -> tuple[str, int] | None:
    """Return the line and the exit code of what a user can act on, None for a bug."""
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
    """Write one line on stderr and leave."""
    click.echo(f"flowsr-export: {' '.join(message.split())}", err=True)
    ctx.exit(exit_code)
