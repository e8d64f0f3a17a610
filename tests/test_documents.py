"""Every command that README and tutorial show and that needs no GPU runs, and prints that."""

import re
import shutil
from pathlib import Path

import click
import pytest

from docs.hooks.commands import MARK, on_page_markdown
from flowsr_export.cli import main
from tests.documents import ROOT, blocks, give_headers, masked, prepare, steps
from tests.flowsr_runtime.cpp.library import onnxruntime_sdk

LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")
CPP_BEGINS = "onnxruntime_sdk.py"
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if not page.is_symlink()
)


def give_cpp(folder: Path) -> None:
    """Give a page what it needs for C++; skip the rest of it where that cannot be had."""
    for tool in ("cmake", "g++", "curl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    give_headers(folder, onnxruntime_sdk())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_commands_of_a_page_print_what_it_shows(name: str, tmp_path: Path) -> None:
    prepare(tmp_path)
    for step in steps((ROOT / name).read_text(encoding="utf-8")):
        if CPP_BEGINS in step.block.text:  # the rest of the page is about C++
            give_cpp(tmp_path)
        output = step.run(tmp_path)
        if step.output is not None:
            assert masked(output) == masked(step.output.text), f"line {step.block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_reference_has_the_help_of_every_command_and_no_hidden_one() -> None:
    page = on_page_markdown(MARK)
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        assert (f"\n## {name}\n" in page) == (not command.hidden)
    assert "\n### engines prune\n" in page
    assert on_page_markdown("text") == "text"


def test_a_fence_is_run_written_or_left_to_the_reader() -> None:
    text = '```sh title="needs a GPU"\na\n```\n```python title="x.py"\nb\n```\n```sh\nc\n```\n'
    found = list(steps(text + "```text\nd\n```\n"))
    assert [(step.block.text, step.output is None) for step in found] == [
        ("b\n", True),
        ("c\n", False),
    ]
    assert [block.line for block in blocks(text)] == [2, 5, 8]


def test_a_title_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"title in line 2 .* got 'later on'"):
        list(steps('```sh title="later on"\na\n```\n'))


def test_a_command_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    (step,) = steps("```sh\nfalse\ntrue\n```\n")
    with pytest.raises(AssertionError, match="line 2: false"):
        step.run(tmp_path)


def test_measured_values_are_masked_and_sizes_are_not() -> None:
    assert masked("a  1.25 s\n\nb 640x480, 3 files, 12 MB") == [
        "a # s",
        "b 640x480, 3 files, # MB",
    ]
