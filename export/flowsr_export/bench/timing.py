"""Timing in interleaved blocks, in random order, and what the times come to."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from flowsr_export.machine.load import LoadMeter

__all__ = ["Block", "TimingSchedule", "Summary", "interleave", "unloaded", "summarise"]

# ONNX Runtime's threads spin for a while after a run; they must not disturb the next subject.
SETTLE_SECONDS = 0.1
# Fewer blocks without a competing load than this, and all blocks count, marked as loaded.
LEAST_QUIET = 3

KeyT = TypeVar("KeyT")


class Meter(Protocol):
    """What measures the load of others."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float | None:
        """Return the cores that others kept busy since then."""


@dataclass(frozen=True)
class TimingSchedule:
    """How long to measure.

    Attributes:
        warm_up: Seconds of runs that are not counted, before the first block.
        duration: Seconds of runs that are counted, over all blocks.
        blocks: Blocks of each subject.
        seed: Of the order of the subjects in each round.
    """

    warm_up: float = 0.2
    duration: float = 3.0
    blocks: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Block:
    """Runs of one subject that follow one another.

    Attributes:
        begin: Seconds since the first block began.
        seconds: Time of each run.
        others: Cores that other processes kept busy meanwhile, None if it is unknown.
    """

    begin: float
    seconds: tuple[float, ...]
    others: float | None

    def loaded(self, most: float) -> bool:
        """Return whether others took more than `most` cores."""
        return self.others is not None and self.others > most


@dataclass(frozen=True)
class Summary:
    """What the times of some runs come to, in seconds.

    Attributes:
        percentiles: By percentile, 50 always among them.
        mean: Mean.
        minimum: The fastest run.
        runs: How many.
    """

    percentiles: dict[float, float]
    mean: float
    minimum: float
    runs: int


def interleave(
    subjects: Mapping[KeyT, Callable[[], object]],
    pace: TimingSchedule,
    *,
    clock: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = time.sleep,
    meter: Meter | None = None,
    advance: Callable[[KeyT], None] = lambda key: None,
) -> dict[KeyT, list[Block]]:
    """Time subjects in rounds; in each every subject has one block, in a random order.

    What drifts, such as a clock or a temperature, then meets all of them alike. The first run
    of a block finds the caches of another subject and is dropped where others follow.

    Args:
        subjects: What to run, by key.
        pace: How long.
        clock: Seconds from any origin.
        rest: Waits between subjects.
        meter: Measures the load of others; None for the machine's.
        advance: Called with the key after each warm-up and each block.

    Returns:
        Blocks of each subject in the order of time.
    """
    meter = meter or LoadMeter()
    for key, run in subjects.items():
        _timed(run, pace.warm_up, clock)
        advance(key)
    done: dict[KeyT, list[Block]] = {key: [] for key in subjects}
    order, shuffled = list(subjects), random.Random(pace.seed)
    origin = clock()
    for _ in range(pace.blocks):
        shuffled.shuffle(order)
        for key in order:
            rest(SETTLE_SECONDS)
            begin = clock() - origin
            meter.start()
            times = _timed(subjects[key], pace.duration / pace.blocks, clock)
            others = meter.stop()
            done[key].append(Block(begin, tuple(times[1:] or times), others))
            advance(key)
    return done


def unloaded(blocks: Sequence[Block], most: float) -> list[Block]:
    """Return the blocks to count: those without a competing load, or all where these are few.

    Args:
        blocks: Of one subject.
        most: Cores that others may take.
    """
    kept = [block for block in blocks if not block.loaded(most)]
    return kept if len(kept) >= min(LEAST_QUIET, len(blocks)) else list(blocks)


def summarise(blocks: Sequence[Block], percentiles: Sequence[float]) -> Summary:
    """Sum up the runs of some blocks.

    Args:
        blocks: At least one.
        percentiles: Which ones beside the median, in [0, 100].
    """
    times = np.array([seconds for block in blocks for seconds in block.seconds])
    wanted = sorted({50.0, *map(float, percentiles)})
    found = np.percentile(times, wanted)
    return Summary(
        percentiles={p: float(value) for p, value in zip(wanted, found, strict=True)},
        mean=float(times.mean()),
        minimum=float(times.min()),
        runs=len(times),
    )


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
