"""Interleaved blocks: order, warm-up, and the runs that count."""

import threading
from functools import partial

import pytest

from flowsr_export.bench.timing import (
    Block,
    TimingSchedule,
    at_once,
    interleave,
    runs_needed,
    summarize,
    unloaded,
)
from flowsr_export.machine.nvml import GpuMeter
from tests.flowsr_export.bench.benchmarks import FakeMeter, FakeTime


def timed(
    pace: TimingSchedule, costs: dict[str, list[float]]
) -> tuple[dict[str, list[Block]], list[str]]:
    """Interleave subjects whose runs cost what the lists say, the last again and again."""
    time = FakeTime()
    seen: list[str] = []
    left = {name: list(values) for name, values in costs.items()}

    def run(values: list[float]) -> None:
        time.pass_by(values.pop(0) if len(values) > 1 else values[0])

    done = interleave(
        {name: partial(run, values) for name, values in left.items()},
        pace,
        clock=time,
        sleep=time.pass_by,
        load_meter=FakeMeter(0.5),
        advance=seen.append,
    )
    return done, seen


def test_every_subject_has_one_block_in_each_round() -> None:
    done, seen = timed(TimingSchedule(0.1, 1.0, 4), {"a": [0.05], "b": [0.02], "c": [0.01]})
    assert [len(blocks) for blocks in done.values()] == [4, 4, 4]
    rounds = [set(seen[i : i + 3]) for i in range(0, len(seen), 3)]
    assert rounds == [{"a", "b", "c"}] * 5


def test_the_order_is_random_and_repeats_with_its_seed() -> None:
    costs = {"a": [0.05], "b": [0.02], "c": [0.01]}
    orders = [timed(TimingSchedule(0.1, 1.0, 8, seed), costs)[1] for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert len({tuple(orders[0][i : i + 3]) for i in range(3, 27, 3)}) > 1


def test_a_block_lasts_its_share_of_the_duration() -> None:
    done, _ = timed(TimingSchedule(0.5, 4.0, 2), {"a": [0.25]})
    assert [block.seconds for block in done["a"]] == [pytest.approx((0.25,) * 7)] * 2


def test_the_first_run_of_a_block_is_dropped_where_others_follow() -> None:
    done, _ = timed(TimingSchedule(0.01, 0.4, 1), {"a": [0.01, 0.3, 0.1]})
    assert done["a"][0].seconds == pytest.approx((0.1,))


def test_a_run_that_is_longer_than_its_block_counts() -> None:
    done, _ = timed(TimingSchedule(0.01, 0.4, 2), {"a": [5.0]})
    assert [block.seconds for block in done["a"]] == [pytest.approx((5.0,))] * 2


def test_the_warm_up_is_not_counted() -> None:
    done, _ = timed(TimingSchedule(1.0, 0.4, 1), {"a": [0.6, 0.6, 0.1]})
    assert max(done["a"][0].seconds) == pytest.approx(0.1)


def test_a_block_knows_what_others_computed() -> None:
    done, _ = timed(TimingSchedule(0.1, 0.4, 2), {"a": [0.1]})
    assert [block.others for block in done["a"]] == [0.5, 0.5]


def test_loaded_blocks_do_not_count_while_three_are_quiet() -> None:
    calm, busy = Block(0.0, (1.0,), 0.0), Block(0.0, (2.0,), 1.5, loaded=True)
    assert unloaded([calm, busy, calm, calm]) == [calm] * 3
    assert unloaded([calm, busy, calm]) == [calm, busy, calm]


def test_a_summary_holds_the_median_and_what_was_asked_for() -> None:
    blocks = [Block(0.0, (1.0, 2.0), 0.0), Block(0.0, (3.0,) * 18 + (4.0, 5.0) * 20, 0.0)]
    summary = summarize(blocks, [75])
    assert summary == {"p50": 4.0, "p75": 5.0, "mean": 3.95, "minimum": 1.0}


@pytest.mark.parametrize(
    ("percentile", "runs"), [(75, 24), (90, 64), (10, 64), (95, 130), (99, 662), (99.9, 6636)]
)
def test_a_percentile_needs_the_runs_of_mlperf(percentile: float, runs: int) -> None:
    assert runs_needed(percentile) == runs


def test_a_percentile_of_too_few_runs_is_empty() -> None:
    for count, known in ((63, False), (64, True)):
        summary = summarize([Block(0.0, (1.0,) * count, 0.0)], [90])
        assert (summary["p90"] is not None) == known
        assert summary["p50"] == 1.0


def test_every_case_that_counts_has_the_least_number_of_runs() -> None:
    time = FakeTime()
    pace = TimingSchedule(0.1, 0.4, 4, min_runs=64)
    cases = {name: partial(time.pass_by, 0.05) for name in ("case", "probe")}
    done = interleave(
        cases,
        pace,
        counted=["case"],
        clock=time,
        sleep=time.pass_by,
        load_meter=FakeMeter(0.0),
    )
    counts = {name: sum(len(block.seconds) for block in done[name]) for name in done}
    assert counts["case"] == 64
    assert counts["probe"] < 10


class FakeGpuMeter(GpuMeter):
    """A GPU that needs 6 J for each block and is throttled in every second one."""

    def __init__(self) -> None:
        self.blocks = 0

    def start(self) -> None:
        self.blocks += 1

    def stop(self) -> tuple[float | None, bool]:
        return 6.0, self.blocks % 2 == 0


def test_blocks_on_the_gpu_have_its_energy_and_are_rejected_while_it_is_throttled() -> None:
    time = FakeTime()
    done = interleave(
        {name: partial(time.pass_by, 0.1) for name in ("on the GPU", "elsewhere")},
        TimingSchedule(0.1, 1.2, 6),
        on_gpu={"on the GPU"},
        clock=time,
        sleep=time.pass_by,
        load_meter=FakeMeter(0.0),
        gpu_meter=FakeGpuMeter(),
    )
    blocks = done["on the GPU"]
    runs = len(blocks[0].seconds) + 1  # the first one is dropped, not its energy
    assert blocks[0].joules == pytest.approx(6.0 / runs)
    assert [block.throttled for block in blocks] == [False, True] * 3
    assert unloaded(blocks) == blocks[::2]
    assert {(block.joules, block.throttled) for block in done["elsewhere"]} == {(None, False)}


def test_streams_run_at_once() -> None:
    meeting = threading.Barrier(3, timeout=10)  # broken if they wait for each other
    run = at_once([meeting.wait] * 3)
    run()
    run()
    assert not meeting.broken


def test_an_error_of_a_stream_is_not_lost() -> None:
    def fail() -> None:
        raise ValueError("stream failed")

    with pytest.raises(ValueError, match="stream failed"):
        at_once([fail, lambda: None])()
