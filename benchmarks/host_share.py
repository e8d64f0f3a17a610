"""The host's share of an upscale: everything but the graph, which costs nothing here.

The session returns stored noise of the window's size, so that what is left is planning, the
graph's inputs, checks, blending, conversion to eight bits and, apart, the file.

Example:
    python -m benchmarks.host_share
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from flowsr_export.reports.table import markdown_rows
from flowsr_runtime import Bundle, Upscaler, embedded_bundle, write_picture
from flowsr_runtime.bundle.profile_limits import ProfileLimits

__all__ = ["FreeSession", "host_seconds"]

SIZES = ((270, 480), (1024, 1024))  # rows and columns, upscaled by SCALE
SCALE = 4
MEMORY = (8 << 30, 1 << 30)  # the first takes an image whole, the second the larger in tiles


class FreeSession:
    """A session whose runs take no time but a copy of the result.

    Attributes:
        provider: Provider that it stands for; on a GPU all tiles have one size.
        runs: Number of runs by size of the window.
    """

    backend, device = "onnxruntime", 0
    limits: ProfileLimits | None = None

    def __init__(self, provider: str = "cuda") -> None:
        """Begin without results."""
        self.provider = provider
        self.runs: dict[tuple[int, int], int] = {}
        self._results: dict[tuple[int, int], NDArray[np.float32]] = {}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return noise in [0, 1] of the window's size, (1, 3, H, W)."""
        size = (int(feeds["geometry"][8]), int(feeds["geometry"][9]))
        self.runs[size] = self.runs.get(size, 0) + 1
        if size not in self._results:
            noise = np.random.default_rng(0).random((1, 3, *size))
            self._results[size] = noise.astype(np.float32)
        result: NDArray[np.float32] = self._results[size].copy()
        return result

    def close(self) -> None:
        """Do nothing."""


def host_seconds(size: tuple[int, int], memory: int, rounds: int) -> tuple[float, FreeSession]:
    """Measure the median time of an upscale without the graph's.

    Args:
        size: Rows and columns of the image.
        memory: Bytes of activations of a run.
        rounds: Number of measured calls, after one that is not.

    Returns:
        Seconds, and the session with its runs of one call.
    """
    session = FreeSession()
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    with Upscaler(Bundle.open(embedded_bundle()), session, memory_budget=memory) as upscaler:
        upscaler.upscale(image, SCALE)
        seconds = []
        for _ in range(rounds):
            session.runs.clear()
            began = time.perf_counter()
            upscaler.upscale(image, SCALE)
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), session


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Calls.")
def main(rounds: int) -> None:
    """Print the host's time for images whole and in tiles, and of writing them as PNG."""
    rows = []
    for size, memory in zip(SIZES, MEMORY, strict=True):
        seconds, session = host_seconds(size, memory, rounds)
        large = [side * SCALE for side in size]
        noise = np.random.default_rng(2).integers(0, 256, (*large, 3)).astype(np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            write_picture(Path(folder) / "noise.png", noise)
            written = time.perf_counter() - began
        megapixels = large[0] * large[1] / 1e6
        rows.append(
            [
                f"{size[1]}x{size[0]} to {large[1]}x{large[0]}",
                str(sum(session.runs.values())),
                str(len(session.runs)),
                f"{1e3 * seconds:.1f} ms",
                f"{megapixels / seconds:.0f}",
                f"{1e3 * written:.0f} ms",
            ]
        )
    columns = ["image", "tiles", "sizes of tiles", "host", "megapixels/s", "noise as PNG"]
    click.echo("\n".join(markdown_rows(columns, rows)))


if __name__ == "__main__":
    main()
