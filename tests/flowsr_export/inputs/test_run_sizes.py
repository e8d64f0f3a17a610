"""Runs: every size of the graph that a picture needs, as the runtime makes it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsr_export.inputs.run_sizes import (
    RunSize,
    default_runs,
    intersection,
    run_sizes_for,
    union,
)
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import MemoryBudgetError, ScaleError
from tests.flowsr_export.manifests import linf_manifest, srflow_manifest

ANY, FIXED, SRFLOW = linf_manifest(), linf_manifest("4"), srflow_manifest()
ROOMY = 10**12
SIDES = st.integers(1, 300)
RUNS = st.builds(RunSize, st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))


def test_a_picture_that_fits_is_one_run() -> None:
    assert run_sizes_for(ANY, pictures=[(20, 30)], scales=["2.5"], budget=ROOMY) == [
        RunSize((20, 30), (50, 75))
    ]


def test_an_output_size_names_the_picture_that_gives_it() -> None:
    runs = run_sizes_for(ANY, sizes=[(1080, 1920)], scales=["4", "2"], budget=ROOMY)
    assert [run.lr for run in runs] == [(270, 480), (540, 960)]
    assert {run.out for run in runs} == {(1080, 1920)}


def test_a_scale_may_differ_by_axis() -> None:
    (run,) = run_sizes_for(ANY, pictures=[(10, 10)], scales=[("3", "2")], budget=ROOMY)
    assert run.out == (30, 20)


@pytest.mark.parametrize("manifest", [ANY, FIXED, SRFLOW])
def test_a_scale_is_four_or_the_models_own(manifest: Manifest) -> None:
    (run,) = run_sizes_for(manifest, pictures=[(10, 10)], budget=ROOMY)
    assert run.out == (40, 40)


def test_sides_are_padded_as_the_graph_takes_them() -> None:
    (run,) = run_sizes_for(SRFLOW, pictures=[(9, 11)], budget=ROOMY)
    assert run == RunSize((10, 12), (40, 48))


def test_a_picture_above_the_budget_is_cut_into_tiles_that_keep_it() -> None:
    runs = run_sizes_for(SRFLOW, pictures=[(400, 300)], budget=100_000_000)
    assert len(runs) > 1
    assert max(run.memory(SRFLOW) for run in runs) <= 100_000_000
    assert all(run.out == (4 * run.lr[0], 4 * run.lr[1]) for run in runs)


def test_an_exact_halo_needs_larger_tiles_or_more_of_them() -> None:
    budget = 6_000_000
    plain = run_sizes_for(ANY, pictures=[(200, 200)], budget=budget)
    exact = run_sizes_for(ANY, pictures=[(200, 200)], budget=budget, halo="exact")
    assert plain != exact


def test_a_graph_of_whole_pictures_is_not_cut() -> None:
    with pytest.raises(MemoryBudgetError, match="computes whole pictures only"):
        run_sizes_for(FIXED, pictures=[(400, 300)], budget=1_000_000)


@pytest.mark.parametrize("manifest", [FIXED, SRFLOW])
def test_another_scale_than_the_models_is_refused(manifest: Manifest) -> None:
    with pytest.raises(ScaleError, match="scale 4, got 2x2"):
        run_sizes_for(manifest, pictures=[(10, 10)], scales=["2"], budget=ROOMY)


def test_an_output_that_no_picture_gives_is_refused() -> None:
    with pytest.raises(ScaleError, match="4, got 1921x1080; "):
        run_sizes_for(FIXED, sizes=[(1080, 1921)], budget=ROOMY)


def test_without_a_picture_there_are_three_squares_inside_each_other() -> None:
    least, usual, largest = default_runs(ANY, budget=ROOMY)
    assert least == RunSize((16, 16), (16, 16))
    assert usual == RunSize((128, 128), (512, 512))
    assert largest == RunSize((255, 255), (1020, 1020))


@pytest.mark.parametrize("manifest", [ANY, FIXED, SRFLOW])
def test_the_largest_square_keeps_the_budget(manifest: Manifest) -> None:
    least, usual, largest = default_runs(manifest, budget=80_000_000)
    assert least.within(usual)
    assert usual.within(largest)
    assert largest.memory(manifest) <= 80_000_000


@settings(deadline=None)
@given(st.lists(RUNS, min_size=1, max_size=5))
def test_runs_lie_between_what_they_share_and_what_they_join(runs: list[RunSize]) -> None:
    assert all(intersection(runs).within(run) and run.within(union(runs)) for run in runs)
