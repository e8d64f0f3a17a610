"""Parts of `gpu_acceptance.sh`: test images, a GPU without free memory, and the table.

Example:
    python -m benchmarks.acceptance table build/gpu-acceptance
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from PIL import Image

__all__ = ["table"]

FREE_BYTES = 1 << 30  # left on the GPU for a command that wants more
OUT_OF_MEMORY = 6
FILE = click.Path(path_type=Path)


@click.group()
def main() -> None:
    """Run a part of the acceptance on a GPU."""


@main.command()
@click.argument("photo", type=FILE)
@click.argument("folder", type=FILE)
@click.option("--count", default=1, help="Number of copies.")
@click.option("--size", required=True, help="Width and height, such as 480x270.")
def pictures(photo: Path, folder: Path, count: int, size: str) -> None:
    """Write copies of PHOTO, resized, into FOLDER."""
    width, height = map(int, size.split("x"))
    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(photo) as image:
        resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    for index in range(count):
        resized.save(folder / f"{index:03}.png")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True)
def short_of_memory(command: tuple[str, ...]) -> None:
    """Run COMMAND on a GPU that has one GiB left; it must say that it went on with less."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(free - FREE_BYTES, 0), dtype=torch.uint8, device="cuda")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    click.echo(f"{held.nbytes} bytes were held\n{done.stdout}{done.stderr}")
    if "out of memory" not in done.stdout + done.stderr:
        raise click.ClickException("the command did not run out of memory")
    if done.returncode not in (0, OUT_OF_MEMORY):
        raise click.ClickException(f"the command ended with exit code {done.returncode}")


@main.command("table")
@click.argument("folder", type=FILE)
def table_command(folder: Path) -> None:
    """Print the steps of FOLDER and the rows of their benchmarks as one table."""
    click.echo(table(folder))


def table(folder: Path) -> str:
    """Return the steps and the rows of the benchmarks as a Markdown table.

    Args:
        folder: Output of `gpu_acceptance.sh`: `steps.tsv`, and reports named like their steps.
    """
    lines = [
        "| step, or row of a benchmark | result | seconds | peak GPU memory, MiB |",
        "| --- | --- | --- | --- |",
    ]
    for line in (folder / "steps.tsv").read_text(encoding="utf-8").splitlines():
        name, result, seconds, memory = line.split("\t")
        lines.append(f"| {name} | {result} | {seconds} | {memory} |")
        lines += [f"| – {row} | {figures} | | |" for row, figures in _rows(folder / name)]
    return "\n".join(lines)


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and figures of each row of a step's benchmark, if it wrote a report."""
    from flowsr_export.bench.entries import Row

    try:
        report: dict[str, Any] = json.loads(path.with_suffix(".json").read_text("utf-8"))
    except FileNotFoundError:
        return
    for entry in report["rows"]:
        row = Row.from_json(entry)
        figures = [
            f"{1e3 * row.median:.3g} ms",
            f"{row.megapixels_per_second:.3g} MP/s",
            *([] if row.efficiency is None else [f"efficiency {row.efficiency:.2f}"]),
            *(
                []
                if row.joules_per_megapixel is None
                else [f"{row.joules_per_megapixel:.3g} J/MP"]
            ),
            *([] if row.load == "quiet" else [row.load]),
        ]
        yield str(row), ", ".join(figures)
    for label, reason in report["not_started"].items():
        yield label, f"did not start: {reason}"


if __name__ == "__main__":
    main()
