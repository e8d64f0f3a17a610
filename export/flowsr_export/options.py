"""Options and value types that several commands share."""

from __future__ import annotations

import re
from typing import Any

import click

__all__ = ["MEMORY", "SCALE", "SIZE", "force_option", "json_option"]

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class _Scale(click.ParamType):
    """A factor, or one factor each for width and height, as in `2.7x3.6`.

    The value is the runtime's: a float, or (vertical, horizontal).
    """

    name = "S|SxS"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | tuple[float, float]:
        """Read the factors; whether they make sense is the runtime's to say."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            factors = [float(factor) for factor in value.lower().split("x")]
        except ValueError:
            factors = []
        if len(factors) == 1:
            return factors[0]
        if len(factors) == 2:
            return factors[1], factors[0]
        self.fail(f"{value!r} is not a number or two joined by x, as in 4 or 2.7x3.6")


class _Size(click.ParamType):
    """Width and height in pixels, as in `1920x1080`; the value is (height, width)."""

    name = "WxH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Read the pixels; whether they make sense is the runtime's to say."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        match = re.fullmatch(r"(-?\d+)x(-?\d+)", value.strip().lower())
        if match is None:
            self.fail(f"{value!r} is not a width and a height, as in 1920x1080")
        return int(match[2]), int(match[1])


class _Memory(click.ParamType):
    """An amount of memory, as in `800M` or `1.5G`; the value is in bytes."""

    name = "bytes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read a number of bytes with a unit of 1024."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", value.strip().upper())
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is not an amount of memory, as in 800M or 1.5G")
        return int(float(match[1]) * UNITS[match[2]])


SCALE = _Scale()
SIZE = _Size()
MEMORY = _Memory()

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)
force_option = click.option(
    "--force", is_flag=True, help="Overwrite what is there; without it nothing is overwritten."
)
