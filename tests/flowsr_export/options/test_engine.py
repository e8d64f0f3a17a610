"""Options of engines become sizes and settings."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from flowsr_export.engine.build import SizeSpec
from flowsr_export.engine.builder import Settings
from flowsr_export.options.engine import builder_options, size_options


def taken(*arguments: str) -> dict[str, Any]:
    """Return the arguments of a command with all options."""
    got: dict[str, Any] = {}

    @click.command()
    @size_options
    @builder_options
    def command(**parts: Any) -> None:
        got.update(parts)

    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    return got


def test_nothing_typed_is_the_defaults() -> None:
    assert taken() == {"sizes": SizeSpec(), "settings": Settings()}


def test_sizes_are_height_and_width() -> None:
    sizes = taken("--lr-size", "480x270", "--size", "1920x1080", "--scale", "2.7x3.6")["sizes"]
    assert sizes == SizeSpec(((270, 480),), ((1080, 1920),), (("3.6", "2.7"),))


def test_shapes_are_one_profile_for_each_time() -> None:
    typed = ["--opt-shapes", "input:1x3x8x8", "--opt-shapes", "input:1x3x9x9"]
    typed += ["--max-shapes", "input:1x3x10x10", "--max-shapes", "input:1x3x11x11"]
    eight, nine = {"input": (1, 3, 8, 8)}, {"input": (1, 3, 9, 9)}
    assert taken(*typed)["sizes"].explicit == (
        (eight, eight, {"input": (1, 3, 10, 10)}),
        (nine, nine, {"input": (1, 3, 11, 11)}),
    )


def test_settings_are_what_was_typed() -> None:
    typed = "--workspace 4G --builder-optimization-level 5 --tf32 --compute-capability 8.9 "
    typed += "--compute-capability 12.0 --hardware-compatibility-level ampere-plus"
    assert taken(*typed.split())["settings"] == Settings(
        workspace=4 << 30,
        optimization_level=5,
        tf32=True,
        hardware_compatibility="ampere-plus",
        compute_capabilities=("8.9", "12.0"),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-shapes", "input:1x3x8x8"], "need --opt-shapes"),
        (
            ["--opt-shapes", "input:1x3x8x8"] * 2 + ["--max-shapes", "input:1x3x8x8"],
            "got 2, 2, 1",
        ),
    ],
)
def test_bounds_that_do_not_pair_are_refused(arguments: list[str], message: str) -> None:
    @click.command()
    @size_options
    def command(sizes: SizeSpec) -> None:
        raise AssertionError

    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2
    assert message in done.stderr
