"""Run the commands of a Markdown file in order, and compare what they print with the file.

A fence of `sh` is run by bash in a folder with the photographs that the pages speak of. The
`text` fence after it is its output on stdout; progress, on stderr, depends on the time. A fence
with a file's name as its title is written there. A fence whose title is in `NOT_RUN` is for a
reader: it needs something that a test cannot have.

Example:
    python -m tests.documents docs/tutorial.md

runs a file and replaces its outputs by those of this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

__all__ = ["NOT_RUN", "Block", "Step", "blocks", "give_headers", "masked", "prepare", "steps"]

ROOT: Final = Path(__file__).parent.parent
NOT_RUN: Final = ("needs a GPU", "needs the network")
SECONDS: Final = 900
"""Longest time of a fence: an export of the published sizes on one slow core."""

FENCE: Final = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
FILE: Final = re.compile(r"[\w-]+\.\w+")
PICTURES: Final = ROOT / "export" / "flowsr_export" / "inputs" / "pictures"
# A time, a size in memory, a digest or a measured value differs between machines and builds.
VARYING: Final = re.compile(
    r"\b\d+\.\d+(?:\.\d+)*(?:e[+-]?\d+)?\b|\b\d+e[+-]\d+\b|\b[0-9a-f]{12,64}\b"
    r"|\b\d+(?= (?:s|ms|[KMG]i?B|dB|%))"
)


@dataclass(frozen=True)
class Block:
    """A fence.

    Attributes:
        line: Line of the file that its text begins at.
        language: First word after the backticks.
        title: Its title, "" for none.
        text: Its content.
        span: Begin and end of the content in the file.
    """

    line: int
    language: str
    title: str
    text: str
    span: tuple[int, int]


@dataclass(frozen=True)
class Step:
    """A fence to run, or to write as a file.

    Attributes:
        block: The fence.
        output: The fence with its output, if there is one.
    """

    block: Block
    output: Block | None

    def run(self, folder: Path) -> str:
        """Run the commands, or write the file; return what is on stdout.

        Raises:
            AssertionError: If a command fails.
        """
        block = self.block
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
            return ""
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        if block.language == "python":
            command = [sys.executable, "-c", block.text]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path, "PWD": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"line {block.line}: {block.text}\n{done.stderr}"
        return done.stdout


def blocks(markdown: str) -> Iterator[Block]:
    """Yield the fences of a Markdown text."""
    for fence in FENCE.finditer(markdown):
        line = markdown.count("\n", 0, fence.start("text")) + 1
        yield Block(
            line, fence["language"], fence["title"] or "", fence["text"], fence.span("text")
        )


def steps(markdown: str) -> Iterator[Step]:
    """Yield what is to be done, in order.

    Raises:
        ValueError: If a title is neither a file's name nor in `NOT_RUN`.
    """
    fences = list(blocks(markdown))
    for block, after in zip(fences, [*fences[1:], None], strict=True):
        if block.title in NOT_RUN:
            continue
        if block.title and not FILE.fullmatch(block.title):
            raise ValueError(f"title in line {block.line} must be a file, got {block.title!r}")
        shown = after is not None and after.language == "text" and not after.title
        if block.title or block.language in ("sh", "python"):
            yield Step(block, after if shown else None)


def prepare(folder: Path) -> None:
    """Put into a folder what the pages take for granted: the clone, and photographs."""
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("build", "dist"):
            (folder / path.name).symlink_to(path)
    (folder / "holiday").mkdir()
    for name, target in (("coffee", "photo.png"), ("stream", "holiday/stream.png")):
        with Image.open(PICTURES / f"{name}_256.png") as picture:
            picture.crop((0, 0, 128, 72)).save(folder / target)


def give_headers(folder: Path, sdk: Path) -> None:
    """Copy headers of ONNX Runtime that were fetched before: no page fetches them again."""
    if (sdk / "include").is_dir():
        target = folder / "build" / "onnxruntime" / "include"
        shutil.copytree(sdk / "include", target, dirs_exist_ok=True)


def masked(output: str) -> list[str]:
    """Return the lines of an output without what differs between machines."""
    lines = (
        re.sub(r"\s+", " ", VARYING.sub("#", line)).strip() for line in output.splitlines()
    )
    return [line for line in lines if line]


def record(path: Path) -> None:
    """Run a Markdown file and replace the outputs in it."""
    markdown = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        give_headers(Path(name), ROOT / "build" / "onnxruntime")
        outputs = [(step.output, step.run(Path(name))) for step in steps(markdown)]
    for block, output in reversed(outputs):
        if block is not None:
            begin, end = block.span
            markdown = markdown[:begin] + output.rstrip("\n") + "\n" + markdown[end:]
    path.write_text(markdown, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        record(Path(argument))
