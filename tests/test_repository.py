"""The exit codes and the commands that README and the pages of docs/ show."""

import re
import shlex
from pathlib import Path

import click
import pytest
from PIL import Image

from flowsr_export.cli import EXIT_CODES, main
from flowsr_export.fetch.releases import RELEASES
from flowsr_runtime import errors
from tests.documents import blocks

ROOT = Path(__file__).parent.parent

PAGES = sorted((ROOT / "docs").rglob("*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_commands() -> list[str]:
    """Every command line of README and docs/, those that no test can run included."""
    pages = README, *(page.read_text(encoding="utf-8") for page in PAGES)
    fences = (block for page in pages for block in blocks(page) if block.language == "sh")
    text = "\n".join(block.text for block in fences).replace("\\\n", " ")
    lines = {line.partition(" | ")[0] for line in text.splitlines()}
    return sorted(line for line in lines if line.startswith("flowsr-export "))


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    table = {
        int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+?) \|$", README, re.M)
    }
    shown = {int(code): text for code, text in re.findall(r"^ +(\d+) +(.+)$", EXIT_CODES, re.M)}
    raised = {getattr(errors, name).exit_code for name in errors.__all__}
    assert table == shown
    assert set(table) == raised | {0, 130}


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_line_that_is_shown_parses(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:  # a group with a default command
            found, words = command.get_command(context, "run"), ["run", *words]
        assert found is not None
        command, words = found, words[1:]
    old = {name for param in command.params for name in getattr(param, "old", ())}
    assert old.isdisjoint(words)
    assert words == ["--help"] or command.make_context(command.name, words)


def test_every_command_is_in_the_readme() -> None:
    section = README.split("## Commands")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    listed = [name for cell in cells for name in re.findall(r"`([\w-]+)[^`]*`", cell)]
    assert sorted(listed) == sorted(main.list_commands(click.Context(main)))


def test_the_table_of_weights_names_every_file_that_fetch_downloads() -> None:
    page = (ROOT / "docs" / "guides" / "weights.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in RELEASES)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (12, 9), (90, 120, 40)).save("photo.png")
    for block in blocks(README):
        if block.language == "python":
            exec(compile(block.text, "README.md", "exec"), {})
    with Image.open("large.png") as large:
        assert large.size == (48, 36)
