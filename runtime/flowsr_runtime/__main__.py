"""Upscale one image with the runtime alone: `python -m flowsr_runtime`."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, NoReturn

from flowsr_runtime.errors import FlowsrError, UsageError
from flowsr_runtime.geometry import parse_scale, parse_size, size_text
from flowsr_runtime.installation import __version__
from flowsr_runtime.pictures.files import check_output, read_picture, write_picture
from flowsr_runtime.streams import give_up_full_streams, open_streams
from flowsr_runtime.upscaling.upscaler import Upscaler

__all__ = ["main"]

_PROGRAM = "python -m flowsr_runtime"
_FAILURE, _INTERRUPTED = 1, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise the problem of a command line, without the usage."""
        raise UsageError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Upscale one image.

    Args:
        arguments: Words of the command line, None for those of this process.

    Returns:
        The exit code: 0, or that of the error, which becomes one line on stderr.
    """
    # ONNX Runtime 1.29 and newer reports to its makers unless this is set before its import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    logging.basicConfig(format=f"{_PROGRAM}: %(message)s")
    open_streams()
    for stream in (sys.stdout, sys.stderr):  # file names need not be text of the locale
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _upscale(_parser().parse_args(arguments))
    except FlowsrError as error:
        message = str(error).replace("force=True", "--force")
        return _end(" ".join(message.split()), error.exit_code)
    except KeyboardInterrupt:
        return _end("interrupted", _INTERRUPTED)
    except OSError as error:  # of stdout; those of files are errors of ours
        return _end(f"stdout cannot be written: {error.strerror}", _FAILURE)
    finally:
        give_up_full_streams()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=_PROGRAM, description="Upscale one image, without PyTorch or click.")
    add = parser.add_argument
    add("bundle", nargs="?", metavar="BUNDLE", help="bundle; the built-in one without it")
    add("image", metavar="IMAGE", help="image file")
    add("-o", "--output", required=True, metavar="OUT", help="output file")
    add("--scale", type=_checked(parse_scale), help="upscaling factor such as 4 or 2.7x3.6")
    add("--size", type=_checked(parse_size), metavar="WxH", help="output width and height")
    add(
        "--backend",
        default="auto",
        help="auto, onnxruntime, tensorrt, tensorrt_rtx, inductor or openvino",
    )
    add("--provider", help="cpu, cuda, tensorrt or openvino")
    add("--device", type=_device, default=0, metavar="N|cpu|cuda:N", help="device")
    add("--threads", type=int, help="number of CPU threads")
    add("--precision", default="auto", help="auto, fp32, fp16, bf16 or int8")
    add("--no-self-test", action="store_false", dest="self_test", help="skip the self-test")
    add("--force", action="store_true", help="overwrite an existing file")
    add("--version", action="version", version=f"flowsr_runtime {__version__}")
    return parser


def _upscale(given: argparse.Namespace) -> None:
    check_output(given.output, given.force)
    picture = read_picture(given.image)
    names = ("provider", "device", "threads", "precision", "self_test")
    settings = {name: getattr(given, name) for name in names}
    backend = given.backend.replace("-", "_")
    with Upscaler.open(given.bundle, backend=backend, **settings) as upscaler:
        size = upscaler.target(picture.size, given.scale, size=given.size)
        check_output(given.output, given.force, like=picture, size=size)
        large = upscaler.upscale(picture.pixels, given.scale, size=given.size)
        choice = upscaler.choice
    write_picture(given.output, large, like=picture, force=given.force)
    if choice is not None and not choice.self_test.passed:
        sys.stderr.write(f"{_PROGRAM}: {choice.self_test}\n")
    height, width = large.shape[:2]
    sys.stdout.write(f"{given.output}  {size_text((height, width))}\n")
    sys.stdout.flush()


def _device(text: str) -> int | str:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else text


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser of values whose errors argparse shows."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except FlowsrError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _end(message: str, exit_code: int) -> int:
    with suppress(OSError):
        sys.stderr.write(f"{_PROGRAM}: {message}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
