"""The share that is done, from phases inside phases."""

from hypothesis import given
from hypothesis import strategies as st

from flowsr_export.engine.progress import BuildProgress


def test_a_step_inside_a_step_counts_as_its_part() -> None:
    progress = BuildProgress()
    progress.start("build", None, 4)
    progress.step("build", 0)
    progress.start("tactics", "build", 10)
    progress.step("tactics", 4)
    assert progress.share == (1 + 5 / 10) / 4
    assert progress.phase == "tactics"


def test_the_share_does_not_fall_when_a_phase_ends() -> None:
    progress = BuildProgress()
    progress.start("build", None, 2)
    progress.start("tactics", "build", 2)
    progress.step("tactics", 1)
    assert progress.share == 0.5
    progress.finish("tactics")
    assert progress.share == 0.5
    assert progress.phase == "build"


def test_every_step_goes_on_until_it_is_cancelled() -> None:
    progress = BuildProgress()
    progress.start("build", None, 2)
    assert progress.step("build", 0)
    progress.cancel()
    assert not progress.step("build", 1)


def test_nothing_has_begun_and_everything_has_ended_without_a_phase() -> None:
    progress = BuildProgress()
    assert (progress.share, progress.phase) == (0.0, "")
    progress.start("build", None, 1)
    progress.finish("build")
    assert progress.phase == ""


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40))
def test_any_order_of_calls_stays_within_bounds(calls: list[tuple[int, int]]) -> None:
    progress, shares = BuildProgress(), [0.0]
    for phase, step in calls:
        progress.start(f"phase {phase}", f"phase {phase - 1}" if phase else None, 3)
        progress.step(f"phase {phase}", step)
        shares.append(progress.share)
    assert shares == sorted(shares)
    assert shares[-1] <= 1
