"""Options of a session become one object."""

from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from flowsr_export.options.session import session_options, verification_options
from flowsr_runtime import SessionSettings


@pytest.mark.parametrize(
    ("decorate", "backend"), [(session_options, "auto"), (verification_options, "onnxruntime")]
)
def test_a_command_gets_the_session_as_one_object(
    decorate: Callable[[Callable[..., None]], Callable[..., None]], backend: str
) -> None:
    seen: list[SessionSettings] = []

    def keep(settings: SessionSettings, other: str) -> None:
        seen.append(settings)

    command = click.command(click.option("--other")(decorate(keep)))
    wanted = "--backend tensorrt --device 1 --precision bf16 --workers 2 --cuda-graphs 8"
    results = [CliRunner().invoke(command, words) for words in ([], wanted.split())]
    assert [result.exit_code for result in results] == [0, 0]
    assert seen == [
        SessionSettings(backend),
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
