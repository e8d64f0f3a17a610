"""Option values: accepted forms, and refusals that name the value."""

from collections.abc import Callable
from typing import Any

import click
import pytest

from flowsr_export.options.values import (
    parse_blocks,
    parse_devices,
    parse_duration,
    parse_memory,
    parse_percentiles,
    parse_range,
    parse_scales,
    parse_shapes,
    scale_type,
)

Parse = Callable[[str], Any]
ACCEPTED: list[tuple[Parse, str, Any]] = [
    (parse_memory, "4096", 4096),
    (parse_memory, "1k", 1024),
    (parse_memory, "1.5G", 3 << 29),
    (parse_memory, "2 GiB", 1 << 31),
    (parse_memory, "3MB", 3 << 20),
    (parse_duration, "3s", 3.0),
    (parse_duration, "250ms", 0.25),
    (parse_duration, "1.5", 1.5),
    (parse_duration, " 2S ", 2.0),
    (parse_percentiles, "50,99.9", (50.0, 99.9)),
    (parse_blocks, "1,8", (1, 8)),
    (parse_devices, "0", (0,)),
    (parse_range, "1,4", (1.0, 4.0)),
    (parse_scales, "2,2.7x3", ("2", ("3", "2.7"))),
    (
        parse_shapes,
        "input:1x3x64x64, geometry:8x8x16x16x0x0x0x0x16x16",
        {"input": (1, 3, 64, 64), "geometry": (8, 8, 16, 16, 0, 0, 0, 0, 16, 16)},
    ),
]
REFUSED: list[tuple[Parse, list[str]]] = [
    (parse_memory, ["", "0", "0.0G", "-1G", "nan", "1Q", "many"]),
    (parse_duration, ["", "-1s", "0", "nan", "inf", "3m"]),
    (parse_percentiles, ["high", "100", "0,50"]),
    (parse_blocks, ["", "a", "1;2"]),
    (parse_devices, ["", "0,", "a", "0;1", "-1"]),
    (parse_range, ["4", "a,b", "1,2,3"]),
    (parse_shapes, ["", "input", "input:", "1x3x8x8", "input:1x3xhxw", ":1x3"]),
    (scale_type, ["1x2x3"]),
]


@pytest.mark.parametrize(("parse", "text", "value"), ACCEPTED)
def test_values_are_parsed(parse: Parse, text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"), [(parse, text) for parse, texts in REFUSED for text in texts]
)
def test_other_values_are_refused(parse: Parse, text: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        parse(text)
    assert repr(text) in str(refused.value)


def test_a_repeated_input_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="got input in"):
        parse_shapes("input:1x3x8x8,input:1x3x9x9")
