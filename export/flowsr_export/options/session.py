"""Options and value types that several commands share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from flowsr_runtime.errors import FlowsrError
from flowsr_runtime.geometry import parse_scale, parse_size

__all__ = [
    "evaluation_options",
    "force_option",
    "json_option",
    "parse_blocks",
    "parse_memory",
    "scale_type",
    "session_options",
    "size_type",
    "typed",
    "verification_options",
]

Command = Callable[..., Any]
ValueT = TypeVar("ValueT")

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def typed(parse: Callable[[str], ValueT]) -> Callable[[str], ValueT]:
    """Return `parse` as the type of an option: its errors become errors of usage."""

    @functools.wraps(parse)
    def parsed(text: str) -> ValueT:
        try:
            return parse(text)
        except FlowsrError as error:
            raise click.BadParameter(str(error)) from error

    return parsed


scale_type = typed(parse_scale)
size_type = typed(parse_size)


def parse_memory(value: str) -> int:
    """Read an amount of memory, as in `800M` or `1.5G`.

    Args:
        value: What was typed.

    Returns:
        Bytes; units are powers of 1024.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", value.strip().upper())
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"{value!r} is not as in 800M or 1.5G")
    return int(float(match[1]) * UNITS[match[2]])


def parse_blocks(value: str) -> tuple[int, ...]:
    """Read indices of blocks joined by commas, as in `1,8,15,22`.

    Args:
        value: What was typed.

    Returns:
        The indices, from 0.
    """
    if re.fullmatch(r"\d+(,\d+)*", value.strip()) is None:
        raise click.BadParameter(f"{value!r} is not as in 1,8,15,22")
    return tuple(map(int, value.split(",")))


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)
force_option = click.option(
    "--force", is_flag=True, help="Overwrite what is there; without it nothing is overwritten."
)


BACKENDS = ("onnxruntime", "tensorrt", "tensorrt_rtx")
SESSION = (
    click.option(
        "--device",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Number of the GPU.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        show_default="all cores",
        help="CPU threads.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16", "int8", "fp8"]),
        default="fp32",
        show_default=True,
        help="Which of the bundle's graphs to run.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        show_default="4",
        help="Most runs at once on a GPU; TensorRT alone.",
    ),
    click.option(
        "--cuda-graphs",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Most captured CUDA graphs, 0 for none; they help where sizes come again.",
    ),
)


def session_options(command: Command) -> Command:
    """Add the options that say how a bundle is run; the command gets them as `settings`."""
    about = "ONNX Runtime's execution provider; refused if it is not there.  [default: cpu]"
    return _with_session_options(command, about)


def verification_options(command: Command) -> Command:
    """Add the same options, but every provider that starts stands for none."""
    about = "ONNX Runtime's execution provider.  [default: every one that starts]"
    return _with_session_options(command, about)


def evaluation_options(command: Command) -> Command:
    """Add the options of a session, and PyTorch beside its backends."""
    about = "What computes; refused if it is not there.  [default: cpu]"
    return _with_session_options(command, about, (*BACKENDS, "torch"))


def _with_session_options(
    command: Command, about: str, backends: tuple[str, ...] = BACKENDS
) -> Command:
    @functools.wraps(command)
    def packed(
        *,
        backend: str,
        provider: str | None,
        device: int,
        threads: int | None,
        precision: str,
        workers: int | None,
        cuda_graphs: int,
        **others: Any,
    ) -> Any:
        from flowsr_runtime.backends.session import SessionSettings

        settings = SessionSettings(
            backend, provider, device, threads, precision, workers, cuda_graphs
        )
        return command(settings=settings, **others)

    provider = click.option(
        "--provider", type=click.Choice(["cpu", "cuda", "tensorrt", "openvino"]), help=about
    )
    backend = click.option(
        "--backend",
        type=click.Choice(backends),
        default=backends[0],
        show_default=True,
        help="Inference library.",
    )
    for option in reversed((backend, provider, *SESSION)):
        packed = option(packed)
    return packed
