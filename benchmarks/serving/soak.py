"""Soak test: memory stays flat, and threads agree bit for bit with a single thread.

Every call reads an image file, upscales it in a pool, and encodes the result. Sizes,
channels, depths and formats change from call to call. Exit code 1 means a missed tolerance.

Example:
    nice python -m benchmarks.serving.soak --calls 10000
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from numpy.typing import NDArray

from flowsr_export.reports.table import markdown_rows
from flowsr_runtime import Upscaler, UpscalerPool, encode_picture, read_picture

__all__ = ["Agreement", "Growth", "agreement", "growth", "pictures", "table"]

GROWTH_TOLERANCE = 0.02
"""Maximum relative growth of resident memory."""

SAMPLES = 100
"""Number of memory readings."""

SETTLED = 0.1
"""Share of the calls until arenas and caches have reached their size."""

SCALE = 2
KINDS: tuple[tuple[str, int, Any], ...] = (
    ("PNG", 3, np.uint8),
    ("JPEG", 3, np.uint8),
    ("WEBP", 4, np.uint8),
    ("PNG", 4, np.uint16),
    ("TIFF", 1, np.uint16),
    ("PNG", 2, np.uint8),
    ("TIFF", 1, np.float32),
    ("AVIF", 3, np.uint8),
)


@dataclass(frozen=True)
class Growth:
    """Resident memory over many calls.

    Attributes:
        calls: Number of calls.
        seconds: Time of all calls.
        begin: Median of the first tenth after the settling phase, in bytes.
        end: Median of the last tenth in bytes.
        peak: Largest reading in bytes.
        share: Relative growth from `begin` to `end`.
    """

    calls: int
    seconds: float
    begin: int
    end: int
    peak: int
    share: float

    @property
    def is_within(self) -> bool:
        """Whether the growth is within the tolerance."""
        return self.share < GROWTH_TOLERANCE


@dataclass(frozen=True)
class Agreement:
    """Calls from many threads compared with the same calls from one thread.

    Attributes:
        threads: Number of threads.
        calls: Number of calls per thread.
        different: Number of results that differ in any bit.
    """

    threads: int
    calls: int
    different: int


def pictures(count: int) -> Iterator[NDArray[Any]]:
    """Iterate over ramps of changing size, channels and depth, in the order of `KINDS`."""
    rng = np.random.default_rng(5)
    for k in range(count):
        _, channels, dtype = KINDS[k % len(KINDS)]
        size = (12 + 5 * (k // 8 % 4), 10 + 7 * (k // 32 % 3))
        ramp = np.linspace(0.2, 0.7, size[0] * size[1]).reshape(*size, 1)
        values = ramp + 0.1 * rng.random((*size, channels))
        top = 1 if dtype == np.float32 else np.iinfo(dtype).max
        yield (values * top).astype(dtype)


def growth(upscaler: Upscaler, calls: int, workers: int = 2) -> Growth:
    """Read, upscale and encode repeatedly, and measure the resident memory.

    Args:
        upscaler: Open upscaler.
        calls: Number of calls, at least ten times `SAMPLES` for a meaningful share.
        workers: Number of workers of the pool.

    Returns:
        The resident memory.
    """
    files = [
        encode_picture(image, KINDS[k % len(KINDS)][0]) for k, image in enumerate(pictures(96))
    ]
    readings = []
    began = time.perf_counter()
    with UpscalerPool(upscaler, workers) as pool:
        for call in range(calls):
            picture = read_picture(files[call % len(files)])
            large = pool.submit(picture.pixels, SCALE).result()
            kind = KINDS[call % len(files) % len(KINDS)][0]
            encode_picture(large, kind, like=picture)
            if (call + 1) % max(1, calls // SAMPLES) == 0:
                gc.collect()
                readings.append(psutil.Process().memory_info().rss)
    seconds = time.perf_counter() - began
    settled = readings[int(len(readings) * SETTLED) :]
    tenth = max(1, len(settled) // 10)
    begin, end = (int(statistics.median(part)) for part in (settled[:tenth], settled[-tenth:]))
    return Growth(calls, seconds, begin, end, max(readings), end / begin - 1)


def agreement(upscaler: Upscaler, threads: int, calls: int) -> Agreement:
    """Upscale the same images in one thread and in many, and compare.

    Args:
        upscaler: Open upscaler.
        threads: Number of threads.
        calls: Number of calls per thread.

    Returns:
        Number of different results.
    """
    images = list(pictures(96))
    expected = [upscaler.upscale(image, SCALE) for image in images]

    def differs(call: int) -> bool:
        k = call % len(images)
        return not np.array_equal(upscaler.upscale(images[k], SCALE), expected[k])

    with ThreadPoolExecutor(threads) as pool:
        different = sum(pool.map(differs, range(threads * calls)))
    return Agreement(threads, calls, different)


def table(grown: Growth, agreed: Agreement) -> str:
    """Return a Markdown table."""
    mib = 2**20
    rows = (
        ("calls: read, upscale, encode", f"{grown.calls} in {grown.seconds:.0f} s"),
        ("resident memory when settled", f"{grown.begin / mib:.1f} MiB"),
        ("at the end", f"{grown.end / mib:.1f} MiB"),
        ("growth", f"{100 * grown.share:+.2f} % (tolerance: {100 * GROWTH_TOLERANCE:g} %)"),
        ("largest", f"{grown.peak / mib:.1f} MiB"),
        (
            f"{agreed.threads} threads × {agreed.calls} calls against one thread",
            f"{agreed.different} differ (tolerance: 0)",
        ),
    )
    return "\n".join(markdown_rows(("quantity", "measured"), rows))


@click.command()
@click.argument("bundle", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--calls", type=click.IntRange(min=100), default=10_000, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--each", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path))
def main(
    bundle: Path | None, calls: int, threads: int, each: int, json_path: Path | None
) -> None:
    """Run the soak with BUNDLE, or with the built-in model.

    Example:
      python -m benchmarks.serving.soak --calls 10000 --threads 8 --each 200
    """
    with Upscaler.open(bundle, threads=1) as upscaler:
        agreed = agreement(upscaler, threads, each)
        grown = growth(upscaler, calls)
    click.echo(table(grown, agreed))
    if json_path is not None:
        report = {"growth": asdict(grown), "agreement": asdict(agreed)}
        json_path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    sys.exit(0 if grown.is_within and agreed.different == 0 else 1)


if __name__ == "__main__":
    main()
