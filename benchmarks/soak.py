"""Many calls: does memory stay flat, and do threads agree with one bit by bit.

Every call reads a picture file, enlarges it in a pool, and encodes the result. Sizes,
channels, depths and formats change from call to call. Exit code 1 where a bar is missed.

Example:
    nice python -m benchmarks.soak --calls 10000
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from flowsr_runtime import Upscaler, UpscalerPool, encode_picture, read_picture

__all__ = ["Agreement", "Growth", "agreement", "growth", "pictures", "table"]

GROWTH_BAR = 0.02
"""Largest growth of resident memory, as a share."""

SAMPLES = 100
"""Readings of the memory in a run."""

SETTLED = 0.1
"""Share of the calls in which arenas and caches come to their size."""

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
        seconds: Of all of them.
        begin: Median of the first tenth after memory has settled, bytes.
        end: Median of the last tenth, bytes.
        peak: Largest reading, bytes.
        share: How much `end` is above `begin`.
    """

    calls: int
    seconds: float
    begin: int
    end: int
    peak: int
    share: float

    @property
    def is_within(self) -> bool:
        """Whether the bar is kept."""
        return self.share < GROWTH_BAR


@dataclass(frozen=True)
class Agreement:
    """Calls of many threads against the same calls one by one.

    Attributes:
        threads: Number of threads.
        calls: Calls of each.
        different: Calls whose result was not equal bit by bit.
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
    """Read, enlarge and encode again and again, and watch the resident memory.

    Args:
        upscaler: An open upscaler.
        calls: Number of calls, at least ten times `SAMPLES` for a share that means anything.
        workers: Of the pool.

    Returns:
        What the memory did.
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
                readings.append(resident())
    seconds = time.perf_counter() - began
    settled = readings[int(len(readings) * SETTLED) :]
    tenth = max(1, len(settled) // 10)
    begin, end = (int(statistics.median(each)) for each in (settled[:tenth], settled[-tenth:]))
    return Growth(calls, seconds, begin, end, max(readings), end / begin - 1)


def agreement(upscaler: Upscaler, threads: int, calls: int) -> Agreement:
    """Enlarge the same pictures one by one and in many threads, and compare.

    Args:
        upscaler: An open upscaler.
        threads: Number of threads.
        calls: Calls of each.

    Returns:
        How many results differ.
    """
    images = list(pictures(96))
    due = [upscaler.upscale(image, SCALE) for image in images]

    def differs(call: int) -> bool:
        k = call % len(images)
        return not np.array_equal(upscaler.upscale(images[k], SCALE), due[k])

    with ThreadPoolExecutor(threads) as pool:
        different = sum(pool.map(differs, range(threads * calls)))
    return Agreement(threads, calls, different)


def resident() -> int:
    """Return the resident memory of this process in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def table(grown: Growth, agreed: Agreement) -> str:
    """Return a Markdown table."""
    mib = 2**20
    rows: Sequence[tuple[str, str]] = (
        ("calls: read, enlarge, encode", f"{grown.calls} in {grown.seconds:.0f} s"),
        ("resident memory when settled", f"{grown.begin / mib:.1f} MiB"),
        ("at the end", f"{grown.end / mib:.1f} MiB"),
        ("growth", f"{100 * grown.share:+.2f} % (bar: below {100 * GROWTH_BAR:g} %)"),
        ("largest", f"{grown.peak / mib:.1f} MiB"),
        (
            f"{agreed.threads} threads × {agreed.calls} calls against one thread",
            f"{agreed.different} differ (bar: 0)",
        ),
    )
    lines = ["| what | measured |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)]
    return "\n".join(lines)


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
      python -m benchmarks.soak --calls 10000 --threads 8 --each 200
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
