"""The values that options take."""

from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from flowsr_export.options.session import (
    parse_memory,
    scale_type,
    session_options,
    verification_options,
)
from flowsr_runtime import SessionSettings


def test_an_option_turns_an_error_of_ours_into_one_of_usage() -> None:
    with pytest.raises(click.BadParameter, match="'1x2x3'"):
        scale_type("1x2x3")


@pytest.mark.parametrize(
    ("value", "size"),
    [("4096", 4096), ("1k", 1024), ("1.5G", 3 << 29), ("2 GiB", 1 << 31), ("3MB", 3 << 20)],
)
def test_memory_has_units_of_1024(value: str, size: int) -> None:
    assert parse_memory(value) == size


@pytest.mark.parametrize("value", ["", "0", "0.0G", "-1G", "nan", "1Q", "many"])
def test_another_form_of_memory_is_refused(value: str) -> None:
    with pytest.raises(click.BadParameter, match="is not as in 800M"):
        parse_memory(value)


@pytest.mark.parametrize("decorate", [session_options, verification_options])
def test_a_command_gets_the_session_as_one_object(
    decorate: Callable[[Callable[..., None]], Callable[..., None]],
) -> None:
    seen: list[SessionSettings] = []

    def keep(settings: SessionSettings, other: str) -> None:
        seen.append(settings)

    command = click.command(click.option("--other")(decorate(keep)))
    wanted = "--backend tensorrt --device 1 --precision bf16 --workers 2 --cuda-graphs 8"
    results = [CliRunner().invoke(command, words) for words in ([], wanted.split())]
    assert [result.exit_code for result in results] == [0, 0]
    assert seen == [
        SessionSettings(),
        SessionSettings("tensorrt", device=1, precision="bf16", workers=2, cuda_graphs=8),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "workers is for tensorrt, got 2"),
        (["--cuda-graphs", "3"], "cuda_graphs is for cuda and tensorrt, got 3"),
        (["--workers", "0"], "0 is not in the range x>=1"),
        (["--cuda-graphs", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_what_a_backend_does_not_have_is_refused(
    run: Callable[..., Result],
    fourfold: object,
    photo: object,
    options: list[str],
    message: str,
) -> None:
    done = run("upscale", fourfold, photo, "-o", "never.png", *options)
    assert done.exit_code == 2
    assert message in done.stderr
