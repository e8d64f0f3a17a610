"""Time benchmark cases in interleaved blocks of random order, and summarize them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from flowsr_export.machine.load import LOADED_SHARE, LoadMeter

__all__ = ["Block", "TimingSchedule", "interleave", "summarize", "unloaded"]

# ONNX Runtime's threads spin for a while after a run; they must not disturb the next case.
SETTLE_SECONDS = 0.1
# With fewer blocks without a competing load than this, all blocks count, marked as loaded.
MIN_QUIET = 3

KeyT = TypeVar("KeyT")


@dataclass(frozen=True)
class TimingSchedule:
    """Duration and order of a measurement.

    Attributes:
        warm_up: Seconds of uncounted runs before the first block.
        duration: Seconds of counted runs, over all blocks.
        blocks: Blocks of each case.
        seed: Random seed for the order of the cases in each round.
    """

    warm_up: float = 0.2
    duration: float = 3.0
    blocks: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Block:
    """Consecutive runs of one case.

    Attributes:
        begin: Start, seconds after the first block.
        seconds: Time of each run.
        others: Cores that other processes kept busy meanwhile, None if unknown.
        loaded: Whether that was too many.
    """

    begin: float
    seconds: tuple[float, ...]
    others: float | None
    loaded: bool = False


def interleave(
    cases: Mapping[KeyT, Callable[[], object]],
    pace: TimingSchedule,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    load_meter: LoadMeter | None = None,
    advance: Callable[[KeyT], None] = lambda key: None,
) -> dict[KeyT, list[Block]]:
    """Time cases in rounds; each round has one block of every case, in random order.

    Drifting clocks and temperatures then affect all cases alike. The first run of a block
    meets the caches of another case and is dropped if others follow.

    Args:
        cases: Functions to time, by key.
        pace: Duration and blocks.
        clock: Seconds from any origin.
        sleep: Waits between cases.
        load_meter: Measures the load of other processes; None for the machine's.
        advance: Called with the key after each warm-up and each block.

    Returns:
        Blocks of each case in chronological order.
    """
    meter, limit = load_meter or LoadMeter(), LOADED_SHARE * (os.cpu_count() or 1)
    for key, run in cases.items():
        _timed(run, pace.warm_up, clock)
        advance(key)
    done: dict[KeyT, list[Block]] = {key: [] for key in cases}
    order, shuffled = list(cases), random.Random(pace.seed)
    origin = clock()
    for _ in range(pace.blocks):
        shuffled.shuffle(order)
        for key in order:
            sleep(SETTLE_SECONDS)
            begin = clock() - origin
            meter.start()
            times = _timed(cases[key], pace.duration / pace.blocks, clock)
            others = meter.stop()
            loaded = others is not None and others > limit
            done[key].append(Block(begin, tuple(times[1:] or times), others, loaded))
            advance(key)
    return done


def unloaded(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that count: those without a competing load, or all if these are few.

    Args:
        blocks: Blocks of one case.
    """
    kept = [block for block in blocks if not block.loaded]
    return kept if len(kept) >= min(MIN_QUIET, len(blocks)) else list(blocks)


def summarize(blocks: Sequence[Block], percentiles: Sequence[float]) -> dict[str, float]:
    """Summarize the runs of some blocks.

    Args:
        blocks: At least one.
        percentiles: Percentiles beside the median, in [0, 100].

    Returns:
        Seconds of a run: "p50" and the other percentiles, "mean" and "minimum".
    """
    times = np.array([seconds for block in blocks for seconds in block.seconds])
    levels = sorted({50.0, *map(float, percentiles)})
    named = zip(levels, np.percentile(times, levels).tolist(), strict=True)
    extremes = {"mean": float(times.mean()), "minimum": float(times.min())}
    return {f"p{level:g}": value for level, value in named} | extremes


def _timed(
    run: Callable[[], object], at_least: float, clock: Callable[[], float]
) -> list[float]:
    """Run at least once, and until `at_least` seconds have passed."""
    times: list[float] = []
    begin = now = clock()
    while not times or now - begin < at_least:
        run()
        before, now = now, clock()
        times.append(now - before)
    return times
