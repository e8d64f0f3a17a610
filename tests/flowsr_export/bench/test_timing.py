"""Interleaved blocks: order, warm-up, and the runs that count."""

from functools import partial

import pytest

from flowsr_export.bench.timing import Block, TimingSchedule, interleave, summarize, unloaded
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
    summary = summarize([Block(0.0, (1.0, 2.0), 0.0), Block(0.0, (3.0, 4.0, 5.0), 0.0)], [75])
    assert summary == {"p50": 3.0, "p75": 4.0, "mean": 3.0, "minimum": 1.0}
