"""One name for one thing: options of all commands, their old names, sections and spellings."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flowsr_export.cli import COMMANDS, main
from flowsr_export.options.command import Option
from flowsr_export.options.sections import EXCEPTIONS, SECTION_OF
from flowsr_export.options.speech import PROGRAM

TABLE = (Path(__file__).parents[3] / "docs" / "reference" / "options.md").read_text(
    encoding="utf-8"
)
ROWS = re.findall(r"^\| (`.+?) \| .+? \| (.*?) ?\|$", TABLE, re.MULTILINE)
NAMES = {name for row, _ in ROWS for name in re.findall(r"(--[\w-]+)", row)}
OLD = {name for _, row in ROWS for name in re.findall(r"(--[\w-]+)", row)}


def walk(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(click.Context(command)):
        below = command.get_command(click.Context(command), name)
        assert below is not None
        yield from walk(below, *path, name)


ALL = dict(walk(main))
RENAMED = [
    (path, option)
    for path, command in ALL.items()
    for option in command.params
    if isinstance(option, Option) and option.old
]


def names_of(command: click.Command) -> set[str]:
    """Return the names of the options in the help."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {name for option in options if not option.hidden for name in option.opts}


def test_every_command_is_in_one_group() -> None:
    listed = [name for names in COMMANDS.values() for name in names]
    assert sorted(listed) == sorted({path[0] for path in ALL})


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_the_help_has_no_old_name(path: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*path, "--help"]).stdout
    names = set(re.findall(r"(?<![\w-])--[\w-]+", text))
    assert names & OLD - NAMES == set()
    assert names_of(ALL[path]) <= names | {"-o", "-q", "-v"}


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_takes_json_quiet_and_verbose(path: tuple[str, ...]) -> None:
    assert {"--json", "-q", "--quiet", "-v", "--verbose"} <= names_of(ALL[path])


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_has_a_section(path: tuple[str, ...]) -> None:
    table = SECTION_OF | EXCEPTIONS.get(path[-1], {})
    options = [param for param in ALL[path].params if isinstance(param, click.Option)]
    assert [option.opts for option in options if not set(option.opts) & set(table)] == []


def test_old_names_are_those_of_the_table() -> None:
    pairs = {(option.opts[-1], old) for _, option in RENAMED for old in option.old}
    told = {
        (name, old)
        for row, olds in ROWS
        for name in re.findall(r"(--[\w-]+)", row)
        for old in re.findall(r"(--[\w-]+)", olds)
    }
    assert pairs == told


@pytest.mark.parametrize(("path", "option"), RENAMED)
def test_an_old_name_sets_the_same_parameter(path: tuple[str, ...], option: Option) -> None:
    parser = ALL[path].make_parser(click.Context(ALL[path]))
    value = [] if option.is_flag else ["some"]
    new = parser.parse_args([option.opts[-1], *value])[0]
    assert new[str(option.name)]
    for old in option.old:
        assert parser.parse_args([old, *value])[0] == new


@pytest.mark.parametrize(
    "words",
    [
        "serve --max_memory 1K --port 99999",
        "serve --max-memory 1K --port 99999",
        "build-engine --builder_optimization_level 9",
        "build_engine --builder-optimization-level 9",
    ],
)
def test_names_take_dashes_and_underscores(words: str) -> None:
    done = CliRunner().invoke(main, words.split())
    assert (done.exit_code, "is not in the range" in done.stderr) == (2, True)


@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt_rtx"])
def test_choices_take_dashes_and_underscores(backend: str, bundle: Path) -> None:
    words = ["serve", str(bundle), "--backend", backend, "--port", "99999"]
    assert "'--port': 99999" in CliRunner().invoke(main, words).stderr


def test_choices_are_shown_with_dashes() -> None:
    assert "tensorrt-rtx" in CliRunner().invoke(main, ["upscale", "--help"]).stdout
    words = ["upscale", "a.png", "-o", "b.png", "--backend", "ncnn"]
    assert (
        "tensorrt, tensorrt-rtx, inductor, openvino;" in CliRunner().invoke(main, words).stderr
    )


def test_summaries_are_whole_and_in_groups() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    assert "..." not in text.split("\nUse:\n")[1]
    assert [text.index(f"\n{heading}:\n") for heading in COMMANDS] == sorted(
        text.index(f"\n{heading}:\n") for heading in COMMANDS
    )


@pytest.mark.parametrize(
    ("called", "shown"),
    [("flowsr", "flowsr"), ("flowsr-export", "flowsr-export"), ("-c", PROGRAM)],
)
def test_the_help_has_the_name_that_was_called(called: str, shown: str) -> None:
    text = CliRunner().invoke(main, ["upscale", "--help"], prog_name=called).stdout
    assert f"Usage: {shown} upscale" in text
    assert f"\n    {shown} upscale photo.jpg" in text
    error = CliRunner().invoke(main, ["upscale"], prog_name=called).stderr
    assert error.startswith(f"{shown}: ")
    assert error.endswith(f"; see {shown} upscale --help\n")
