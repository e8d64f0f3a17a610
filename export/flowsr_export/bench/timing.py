"""Time benchmark cases in interleaved blocks of random order, and summarize them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TypeVar

import numpy as np

from flowsr_export.machine.load import LOADED_SHARE, LoadMeter
from flowsr_export.machine.nvml import GpuMeter

__all__ = [
    "Block",
    "TimingSchedule",
    "at_once",
    "interleave",
    "runs_needed",
    "summarize",
    "unloaded",
]

# ONNX Runtime's threads spin for a while after a run; they must not disturb the next case.
SETTLE_SECONDS = 0.1
# With fewer blocks without a competing load than this, all blocks count, marked as loaded.
MIN_QUIET = 3
# Of an upper bound of a percentile: MLPerf's early stopping, which lets one run be slower.
CONFIDENCE = 0.99

KeyT = TypeVar("KeyT")


@dataclass(frozen=True)
class TimingSchedule:
    """Duration and order of a measurement.

    Attributes:
        warm_up: Seconds of uncounted runs before the first block.
        duration: Seconds of counted runs, over all blocks.
        blocks: Blocks of each case.
        seed: Random seed for the order of the cases in each round.
        min_runs: Least number of counted runs of each case, over all blocks.
    """

    warm_up: float = 0.2
    duration: float = 3.0
    blocks: int = 10
    seed: int = 0
    min_runs: int = 1


@dataclass(frozen=True)
class Block:
    """Consecutive runs of one case.

    Attributes:
        begin: Start, seconds after the first block.
        seconds: Time of each run.
        others: Cores that other processes kept busy meanwhile, None if unknown.
        loaded: Whether that was too many.
        throttled: Whether the GPU slowed itself down for heat or for its power supply.
        joules: Energy of one run on the GPU, None if it is unknown.
    """

    begin: float
    seconds: tuple[float, ...]
    others: float | None
    loaded: bool = False
    throttled: bool = False
    joules: float | None = None

    @property
    def disturbed(self) -> bool:
        """Whether something else than the case decided its times."""
        return self.loaded or self.throttled


def interleave(
    cases: Mapping[KeyT, Callable[[], object]],
    pace: TimingSchedule,
    *,
    counted: Collection[KeyT] | None = None,
    on_gpu: Collection[KeyT] = (),
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    load_meter: LoadMeter | None = None,
    gpu_meter: GpuMeter | None = None,
    advance: Callable[[KeyT], None] = lambda key: None,
) -> dict[KeyT, list[Block]]:
    """Time cases in rounds; each round has one block of every case, in random order.

    Drifting clocks and temperatures then affect all cases alike. The first run of a block
    meets the caches of another case and is dropped if others follow.

    Args:
        cases: Functions to time, by key.
        pace: Duration and blocks.
        counted: Cases that need the least number of runs, None for all.
        on_gpu: Cases that run on the GPU of `gpu_meter`.
        clock: Seconds from any origin.
        sleep: Waits between cases.
        load_meter: Measures the load of other processes; None for the machine's.
        gpu_meter: Measures energy and throttling of the GPU, None without one.
        advance: Called with the key after each warm-up and each block.

    Returns:
        Blocks of each case in chronological order.
    """
    load_meter = load_meter or LoadMeter()
    for key, case in cases.items():
        _timed(case, pace.warm_up, clock)
        advance(key)
    done: dict[KeyT, list[Block]] = {key: [] for key in cases}
    order, shuffled = list(cases), random.Random(pace.seed)
    # The first run of a block is dropped if others follow.
    enough = 1 if pace.min_runs == 1 else ceil(pace.min_runs / pace.blocks) + 1
    origin = clock()
    for _ in range(pace.blocks):
        shuffled.shuffle(order)
        for key in order:
            sleep(SETTLE_SECONDS)
            least = enough if counted is None or key in counted else 1
            gpu = gpu_meter if key in on_gpu else None
            begin = clock() - origin
            run = partial(_timed, cases[key], pace.duration / pace.blocks, clock, least)
            done[key].append(_block(begin, run, load_meter, gpu))
            advance(key)
    return done


def at_once(runs: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Return a function that makes several runs at once, a thread each, and waits for all.

    Args:
        runs: At least two functions.
    """
    pool = ThreadPoolExecutor(len(runs), thread_name_prefix="stream")

    def run() -> None:
        for future in [pool.submit(one) for one in runs]:
            future.result()

    return run


def runs_needed(percentile: float) -> int:
    """Return the least number of runs from which a percentile is stated.

    The second slowest of these runs is an upper bound of the percentile at `CONFIDENCE`, as in
    MLPerf's early stopping: 64 runs for the 90th percentile, 662 for the 99th. A percentile
    below 50 needs as many as its counterpart above.

    Args:
        percentile: In (0, 100).
    """
    share = max(percentile, 100 - percentile) / 100
    count = 2
    while share**count + count * (1 - share) * share ** (count - 1) > 1 - CONFIDENCE:
        count += 1
    return count


def unloaded(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that count: the undisturbed ones, or all if these are few.

    Args:
        blocks: Blocks of one case.
    """
    kept = [block for block in blocks if not block.disturbed]
    return kept if len(kept) >= min(MIN_QUIET, len(blocks)) else list(blocks)


def summarize(blocks: Sequence[Block], percentiles: Sequence[float]) -> dict[str, float | None]:
    """Summarize the runs of some blocks.

    Args:
        blocks: At least one.
        percentiles: Percentiles beside the median, in (0, 100).

    Returns:
        Seconds of a run: "p50" and the other percentiles, None where there are fewer runs than
        `runs_needed`; "mean" and "minimum".
    """
    times = np.array([seconds for block in blocks for seconds in block.seconds])
    summary: dict[str, float | None] = {}
    for level in sorted({50.0, *map(float, percentiles)}):
        enough = level == 50 or len(times) >= runs_needed(level)
        summary[f"p{level:g}"] = float(np.percentile(times, level)) if enough else None
    return summary | {"mean": float(times.mean()), "minimum": float(times.min())}


def _block(
    begin: float, run: Callable[[], list[float]], load: LoadMeter, gpu: GpuMeter | None
) -> Block:
    """Measure one block; `run` makes its runs and returns their times."""
    load.start()
    if gpu is not None:
        gpu.start()
    times = run()
    joules, throttled = (None, False) if gpu is None else gpu.stop()
    others = load.stop()
    loaded = others is not None and others > LOADED_SHARE * (os.cpu_count() or 1)
    per_run = None if joules is None else joules / len(times)
    return Block(begin, tuple(times[1:] or times), others, loaded, throttled, per_run)


def _timed(
    run: Callable[[], object], at_least: float, clock: Callable[[], float], least_runs: int = 1
) -> list[float]:
    """Run at least some times, and until `at_least` seconds have passed."""
    times: list[float] = []
    begin = now = clock()
    while len(times) < least_runs or now - begin < at_least:
        run()
        before, now = now, clock()
        times.append(now - before)
    return times
