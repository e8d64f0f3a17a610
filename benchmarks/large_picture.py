"""Measure large images: peak memory against the limit, tiles, work and time.

python -m benchmarks.large_picture --side 2048 --scale 4 --halo exact --max-memory 2G
"""

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.inputs.cases import PICTURES
from flowsr_export.options.values import parse_memory
from flowsr_export.reports.table import markdown_rows
from flowsr_runtime import Upscaler
from flowsr_runtime.tiling.tiles import Plan

__all__ = ["Row", "main", "mosaic", "table", "work_of"]

GIB = 1 << 30
HALOS = ("default", "exact")
COLUMNS = ("halo", "allowed", "planned", "peak", "tiles", "largest", "work", "time", "CPU")


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        halo: "default" or "exact".
        allowed: Memory limit, bytes.
        planned: Peak memory of the plan, bytes.
        peak: Largest resident size of the process, bytes.
        tiles: Number of tiles.
        largest: Output pixels of the largest tile without its halo.
        work: Output pixels of all tiles with halos over those of the image.
        seconds: Time of the whole command, including reading and writing.
        cpu: CPU time of all cores, seconds; other processes hardly affect it.
        rate: Output megapixels per second.
    """

    halo: str
    allowed: int
    planned: int
    peak: int
    tiles: int
    largest: str
    work: float
    seconds: float
    cpu: float
    rate: float


def mosaic(side: int) -> NDArray[np.uint8]:
    """Return a mosaic of the shipped photographs, mirrored at their edges.

    Args:
        side: Rows and columns.

    Returns:
        RGB image, (side, side, 3) uint8.
    """
    paths = sorted(PICTURES.glob("*_256.png"))
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    count = -(-side // 256)
    rows = []
    for i in range(count):
        row = [photos[(i * count + j) % len(photos)] for j in range(count)]
        rows.append(
            np.hstack([tile[:: 1 - i % 2 * 2, :: 1 - j % 2 * 2] for j, tile in enumerate(row)])
        )
    return np.ascontiguousarray(np.vstack(rows)[:side, :side])


def work_of(plan: Plan) -> float:
    """Return the output pixels of all tiles with halos over those of the image."""
    windows = [tile.window for tile in plan.tiles()]
    tiles = sum(window.rows.out_size * window.columns.out_size for window in windows)
    return tiles / (windows[0].rows.target * windows[0].columns.target)


def table(rows: list[Row]) -> str:
    """Return a Markdown table."""
    cells = []
    for row in rows:
        memory = [f"{size / GIB:.2f} GiB" for size in (row.allowed, row.planned, row.peak)]
        tiles = [str(row.tiles), row.largest, f"{row.work:.2f}"]
        times = [f"{row.seconds:.1f} s", f"{row.cpu:.1f} s", f"{row.rate:.2f}"]
        cells.append([row.halo, *memory, *tiles, *times])
    return "\n".join(markdown_rows([*COLUMNS, "MP/s"], cells))


def _run(source: Path, side: int, scale: str, halo: str, allowed: int) -> Row:
    with Upscaler.open(max_memory=allowed, halo=halo) as upscaler:  # type: ignore[arg-type]
        plan = upscaler.plan((side, side), scale)
    words = ["upscale", str(source), "-o", str(source.with_name("large.png")), "--force"]
    words += ["--scale", scale, "--halo", halo, "--max-memory", str(allowed), "--json"]
    command = [sys.executable, "-c", "from flowsr_export.cli import main; main()", *words]
    before = _cpu_of_children()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cpu = _cpu_of_children() - before
    report = json.loads(done.stdout)
    return Row(
        halo,
        allowed,
        plan.peak_bytes,
        report["peak_bytes"],
        len(plan),
        plan.largest,
        work_of(plan),
        report["seconds"],
        cpu,
        report["megapixels_per_second"],
    )


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@click.command()
@click.option("--side", default=2048, show_default=True, help="Side of the input, pixels.")
@click.option("--scale", default="4", show_default=True)
@click.option("--halo", "halos", multiple=True, type=click.Choice(HALOS), default=["exact"])
@click.option("--max-memory", "budgets", multiple=True, type=parse_memory, required=True)
def main(side: int, scale: str, halos: tuple[str, ...], budgets: tuple[int, ...]) -> None:
    """Upscale a mosaic of photographs in a separate process for each row; print a table."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "small.png"
        Image.fromarray(mosaic(side)).save(source)
        rows = [_run(source, side, scale, halo, most) for halo in halos for most in budgets]
    click.echo(table(rows))


if __name__ == "__main__":
    main()
