"""Types of option values: sizes, scales, memory, durations, lists of numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from typing import Any, TypeVar

import click

__all__ = [
    "FiniteRange",
    "WholeRange",
    "color_type",
    "exact_scale_type",
    "format_type",
    "parse_blocks",
    "parse_capability",
    "parse_counts",
    "parse_devices",
    "parse_duration",
    "parse_limit",
    "parse_memory",
    "parse_percentiles",
    "parse_range",
    "parse_rates",
    "parse_scales",
    "parse_shares",
    "parse_shapes",
    "parse_sizes",
    "scale_type",
    "sides_type",
    "size_type",
]

ValueT = TypeVar("ValueT")

MEMORY_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
TIME_UNITS = {"ms": 1e-3, "s": 1.0}


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN and infinity."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a number and check it."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class WholeRange(click.IntRange):
    """A range of whole numbers."""

    name = "integer"


def scale_type(value: str) -> str | tuple[str, str]:
    """Read a scale such as `4`, or one each for width and height such as `2.7x3.6`."""
    from flowsr_runtime.geometry import parse_scale

    return _parsed(parse_scale, value)


def exact_scale_type(value: str) -> Fraction:
    """Read one scale for both axes as an exact fraction."""
    from flowsr_runtime.geometry import exact_scale

    return _parsed(exact_scale, value)


def size_type(value: str) -> tuple[int, int]:
    """Read a size such as `1920x1080` as (H, W)."""
    from flowsr_runtime.geometry import parse_size

    size = _parsed(parse_size, value)
    if min(size) < 1:
        raise click.BadParameter(f"size must be at least 1x1, got {value}")
    return size


def sides_type(value: str) -> tuple[int | None, int | None]:
    """Read a size such as `1920x1080`, or one side such as `1920x` or `x1080`, as (H, W)."""
    from flowsr_runtime.geometry import parse_sides

    sides = _parsed(parse_sides, value)
    if min(side for side in sides if side is not None) < 1:
        raise click.BadParameter(f"size must be at least 1x1, got {value}")
    return sides


def format_type(value: str) -> str:
    """Read the format of an output, such as `jpg`, as a suffix without its dot."""
    from flowsr_runtime.pictures.formats import SUFFIXES

    name = value.strip().lower().lstrip(".")
    if f".{name}" not in SUFFIXES:
        names = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise click.BadParameter(f"expected one of {names}, got {value!r}")
    return name


def color_type(value: str) -> tuple[int, int, int]:
    """Read a color such as `white` or `#ff8800` as red, green and blue."""
    from PIL import ImageColor

    channels: tuple[int, ...] = ()
    with suppress(ValueError):
        channels = ImageColor.getrgb(value.strip())
    if len(channels) != 3:
        message = f"expected a color such as white or #ff8800, got {value[:60]!r}"
        raise click.BadParameter(message)
    return channels[0], channels[1], channels[2]


def parse_sizes(value: str) -> list[tuple[int, int]]:
    """Read sizes joined by commas, such as `480x270,960x540`, as (H, W)."""
    return [size_type(text) for text in value.split(",")]


def parse_temperatures(value: str) -> tuple[float, ...]:
    """Read standard deviations joined by commas, such as `0,0.5,0.8`."""
    numbers = []
    for text in value.split(","):
        if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text.strip()) is None:
            raise click.BadParameter(f"expected numbers such as 0,0.5,0.8, got {value!r}")
        numbers.append(float(text))
    if len(set(numbers)) < len(numbers):
        raise click.BadParameter(f"expected distinct numbers, got {value!r}")
    return tuple(numbers)


def parse_shares(value: str) -> tuple[float, ...]:
    """Read shares between 0 and 1, joined by commas, such as `0.5,0.75`."""
    texts = [text.strip() for text in value.split(",")]
    if not all(re.fullmatch(r"0?\.[0-9]{1,9}", text) and float(text) for text in texts):
        raise click.BadParameter(
            f"expected shares between 0 and 1 such as 0.5,0.75, got {value!r}"
        )
    return tuple(float(text) for text in texts)


def parse_capability(value: str) -> str:
    """Read a compute capability such as `8.9`."""
    if re.fullmatch(r"[1-9][0-9]?\.[0-9]", value) is None:
        raise click.BadParameter(f"expected a compute capability such as 8.9, got {value!r}")
    return value


def parse_gpu(value: str) -> str:
    """Read the name of a GPU whose rates are known, such as `rtx-4090`."""
    from flowsr_export.machine.gpus import GPUS

    names = [gpu.name for gpu in GPUS]
    name = value.strip().lower().replace("_", "-").replace(" ", "-")
    if name not in names:
        raise click.BadParameter(f"expected one of {', '.join(names)}, got {value!r}")
    return name


def parse_memory(value: str) -> int:
    """Read an amount of memory such as `800M` or `1.5G`; units are powers of 1024."""
    form = r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGT]?)(?:I?B)?"
    match = re.fullmatch(form, value.strip().upper())
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"expected an amount such as 800M or 1.5G, got {value!r}")
    return int(float(match[1]) * MEMORY_UNITS[match[2]])


def parse_blocks(value: str) -> tuple[int, ...]:
    """Read block indices, counted from 0, such as `1,8,15,22`."""
    return _indices(value, "1,8,15,22")


def parse_counts(value: str) -> tuple[int, ...]:
    """Read numbers from 1 joined by commas, such as `1,2,4`."""
    counts = _indices(value, "1,2,4", "numbers")
    if min(counts) < 1:
        raise click.BadParameter(f"numbers must be at least 1, got {value!r}")
    return counts


def parse_devices(value: str) -> tuple[int, ...]:
    """Read GPU indices, counted from 0, such as `0,1`."""
    return _indices(value, "0,1")


def parse_range(value: str) -> tuple[float, float]:
    """Read two numbers joined by a comma, such as `1,4`."""
    try:
        low, high = map(float, value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected two numbers such as 1,4, got {value!r}") from None
    return low, high


def parse_duration(value: str) -> float:
    """Read a duration above 0 in seconds, such as `3s`, `200ms` or `1.5`."""
    text = value.strip().lower()
    unit = next((unit for unit in TIME_UNITS if text.endswith(unit)), "")
    try:
        seconds = float(text.removesuffix(unit)) * TIME_UNITS.get(unit, 1.0)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise click.BadParameter(f"expected a duration such as 3s or 200ms, got {value!r}")
    return seconds


def parse_limit(value: str) -> tuple[float, float]:
    """Read a percentile and its longest time in seconds, such as `p99:200ms`."""
    match = re.fullmatch(r"p([0-9.]+):(.+)", value.strip().lower())
    try:
        (percentile,) = parse_percentiles(match[1] if match else "")
        return percentile, parse_duration(match[2] if match else "")
    except click.BadParameter:
        message = f"expected a percentile and a time such as p99:200ms, got {value!r}"
        raise click.BadParameter(message) from None


def parse_percentiles(value: str) -> tuple[float, ...]:
    """Read percentiles joined by commas, such as `90,95,99`."""
    try:
        percentiles = tuple(map(float, value.split(",")))
    except ValueError:
        percentiles = (-1.0,)
    if not all(0 < percentile < 100 for percentile in percentiles):
        raise click.BadParameter(f"expected percentiles such as 90,95,99, got {value!r}")
    return percentiles


def parse_rates(value: str) -> tuple[float, ...]:
    """Read rates above 0 joined by commas, such as `5,10,20`."""
    try:
        rates = tuple(map(float, value.split(",")))
    except ValueError:
        rates = (0.0,)
    if not all(0 < rate < math.inf for rate in rates):
        raise click.BadParameter(f"expected rates such as 5,10,20, got {value!r}")
    return rates


def parse_scales(value: str) -> tuple[str | tuple[str, str], ...]:
    """Read scales joined by commas, such as `2,2.7,3x4`."""
    return tuple(scale_type(text) for text in value.split(","))


def parse_shapes(value: str) -> dict[str, tuple[int, ...]]:
    """Read shapes in the form of trtexec, `input:1x3x64x64,geometry:64x64x…`.

    Returns:
        Numbers by input: sizes, and for `geometry` its values.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in value.split(","):
        name, _, numbers = part.strip().rpartition(":")
        sides = numbers.split("x")
        if not name or not all(re.fullmatch(r"[0-9]{1,18}", side) for side in sides):
            rule = "expected a shape such as input:1x3x64x64"
            raise click.BadParameter(f"{rule}, got {part.strip()!r}")
        if name in shapes:
            raise click.BadParameter(f"each input must be given once, got {name} in {value!r}")
        shapes[name] = tuple(int(side) for side in sides)
    return shapes


def _indices(value: str, example: str, name: str = "indices") -> tuple[int, ...]:
    if re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", value.strip()) is None:
        raise click.BadParameter(f"expected {name} such as {example}, got {value!r}")
    return tuple(map(int, value.split(",")))


def _parsed(parse: Callable[[str], ValueT], value: str) -> ValueT:
    """Parse a value; errors of the library become usage errors."""
    from flowsr_runtime.errors import FlowsrError

    try:
        return parse(value)
    except FlowsrError as error:
        raise click.BadParameter(str(error)) from error
