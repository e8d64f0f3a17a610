"""Measure large images: peak memory against the limit, tiles, work and time.

python -m benchmarks.large_picture --side 2048 --scale 4 --halo exact --max-memory 2G
"""

import json
import resource
import subprocess
import sys
import tempfile
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

__all__ = ["main", "mosaic", "work_of"]

GIB = 1 << 30
HALOS = ("default", "exact")
# Memory limit, planned and measured peak; tiles, and the largest without its halo; pixels of
# the tiles with their halos over those of the image; time and CPU time of the whole command.
COLUMNS = ("halo", "allowed", "planned", "peak", "tiles", "largest", "work", "time", "CPU")


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


def _run(source: Path, side: int, scale: str, halo: str, allowed: int) -> list[str]:
    """Upscale in a separate process, and return the cells of a table's row."""
    with Upscaler.open(max_memory=allowed, halo=halo) as upscaler:  # type: ignore[arg-type]
        plan = upscaler.plan((side, side), scale)
    words = ["upscale", str(source), "-o", str(source.with_name("large.png")), "--force"]
    words += ["--scale", scale, "--halo", halo, "--max-memory", str(allowed), "--json"]
    command = [sys.executable, "-c", "from flowsr_export.cli import main; main()", *words]
    before = _cpu_of_children()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cpu = _cpu_of_children() - before
    report = json.loads(done.stdout)
    sizes = allowed, plan.peak_bytes, report["peak_bytes"]
    return [
        halo,
        *(f"{size / GIB:.2f} GiB" for size in sizes),
        *(str(len(plan)), plan.largest, f"{work_of(plan):.2f}"),
        *(f"{report['seconds']:.1f} s", f"{cpu:.1f} s"),
        f"{report['megapixels_per_second']:.2f}",
    ]


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
    click.echo("\n".join(markdown_rows([*COLUMNS, "MP/s"], rows)))


if __name__ == "__main__":
    main()
