"""Plans fit in memory and in the profiles, at the least cost."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowsr_runtime.bundle.manifest import Memory
from flowsr_runtime.bundle.profile_limits import AxisBounds, ProfileLimits
from flowsr_runtime.errors import BundleError, MemoryBudgetError
from flowsr_runtime.geometry import Extent, Halo, output_size
from flowsr_runtime.tiling.memory import ResidentMemory
from flowsr_runtime.tiling.planner import TilePlanner
from flowsr_runtime.tiling.tiles import Plan

HALO = Halo(patch=3, align=12, lr_align=3, patches=4, pixels=2)
RATIO_HALO = Halo(patch=8, align=64, lr_align=16, patches=0, pixels=5, ratio=4)
# From the smallest tile, 64x64 pixels, to about the largest picture of these tests.
RATIO_BUDGETS = st.integers(160_000, 600_000)
MEMORY = Memory(base_bytes=10_000, bytes_per_pixel=10, bytes_per_patch=100)
# The smallest tiles of one size fit in it: at most 64x64 LR pixels and 20x20 patches.
EQUAL_BUDGET = 91_000
SIDES = st.integers(1, 80)
SCALES = st.fractions(1, 12, max_denominator=20)
FADES = st.sampled_from([0, 1, 5, 12])
# Weights are float32 and each pixel has at most four.
WEIGHT_ROUNDING = 1e-6
SQUARE = TilePlanner((200, 150), (800, 600), HALO, MEMORY, fade=12)


def plan(source: tuple[int, int], target: tuple[int, int], budget: int, fade: int = 12) -> Plan:
    return TilePlanner(source, target, HALO, MEMORY, fade).plan(budget)


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SCALES, SCALES), FADES, st.integers(80_000, 10**6))
def test_every_pixels_weights_sum_to_one(
    source: tuple[int, int], scales: tuple[Fraction, Fraction], fade: int, budget: int
) -> None:
    target = output_size(source[0], scales[0]), output_size(source[1], scales[1])
    total = np.zeros((*target, 1))
    for tile in plan(source, target, budget, fade).tiles():
        rows, columns = tile.rows, tile.columns
        total[rows.begin : rows.end, columns.begin : columns.end] += tile.weights()
    np.testing.assert_allclose(total, 1, atol=WEIGHT_ROUNDING)


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SCALES, SCALES), st.integers(EQUAL_BUDGET, 10**6))
def test_equal_tiles_have_one_size_the_same_cores_and_at_least_their_halos(
    source: tuple[int, int], scales: tuple[Fraction, Fraction], budget: int
) -> None:
    target = output_size(source[0], scales[0]), output_size(source[1], scales[1])
    planner = TilePlanner(source, target, HALO, MEMORY, 12, equal=True)
    made = planner.plan(budget)
    for equal in (made.rows, made.columns):
        assert len({(piece.extent.lr_size, piece.extent.out_size) for piece in equal}) == 1
        for piece in equal:
            grown, own = (
                piece.extent,
                Extent.around(
                    piece.begin, piece.end, piece.extent.source, piece.extent.target, HALO
                ),
            )
            assert grown.out_begin % HALO.align == grown.lr_begin % HALO.lr_align == 0
            assert 0 <= grown.lr_begin <= own.lr_begin < own.lr_end <= grown.lr_end
            assert 0 <= grown.out_begin <= own.out_begin < own.out_end <= grown.out_end
            assert grown.lr_end <= grown.source
            assert grown.out_end <= grown.target
    assert made.run_bytes <= budget


def test_tiles_have_several_sizes_where_tiles_of_one_size_do_not_fit() -> None:
    equal = TilePlanner((70, 70), (70, 70), HALO, MEMORY, 12, equal=True)
    made = equal.plan(87_210)  # what the smallest tiles of one size take
    assert len({piece.extent.out_size for piece in made.rows}) == 1
    fewer = equal.plan(87_209)
    assert fewer == replace(equal, equal=False).plan(87_209)
    assert len({piece.extent.out_size for piece in (*fewer.rows, *fewer.columns)}) > 1
    assert equal.smaller(made, 0).run_bytes < made.run_bytes


@pytest.mark.parametrize("rows", [200, 203])
def test_equal_tiles_of_a_graph_with_a_ratio_are_whole_cells(rows: int) -> None:
    size = (rows * 4, 640)
    made = TilePlanner((rows, 160), size, RATIO_HALO, MEMORY, 8, equal=True).plan(300_000)
    sizes = {(piece.extent.lr_size, piece.extent.out_size) for piece in made.columns}
    assert len(sizes) == 1
    ((low, out),) = sizes
    assert out == 4 * low
    plain = TilePlanner((rows, 160), size, RATIO_HALO, MEMORY, 8).plan(300_000)
    assert [piece.begin for piece in made.columns] == [piece.begin for piece in plain.columns]


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SCALES, SCALES), st.integers(80_000, 10**6))
def test_every_tile_fits_the_budget(
    source: tuple[int, int], scales: tuple[Fraction, Fraction], budget: int
) -> None:
    target = output_size(source[0], scales[0]), output_size(source[1], scales[1])
    tiling = plan(source, target, budget)
    for tile in tiling.tiles():
        window = tile.window
        pixels = window.rows.lr_size * window.columns.lr_size
        patches = -(-window.rows.out_size // 3) * -(-window.columns.out_size // 3)
        assert MEMORY.estimate(pixels, patches) <= tiling.peak_bytes <= budget


def test_a_picture_that_just_fits_is_one_tile() -> None:
    whole = MEMORY.estimate(50 * 40, 67 * 54)
    (tile,) = plan((50, 40), (200, 160), budget=whole).tiles()
    assert tile.window.geometry().tolist() == [50, 40, 200, 160, 0, 0, 0, 0, 200, 160]
    assert (tile.weights() == 1).all()
    assert len(plan((50, 40), (200, 160), budget=whole - 1)) == 2


def test_tiles_of_a_square_are_balanced_and_nearly_square() -> None:
    tiling = plan((300, 300), (1200, 1200), budget=2_000_000)
    axes = (tiling.rows, tiling.columns)
    sides = [max(piece.extent.out_size for piece in axis) for axis in axes]
    assert max(sides) < 2 * min(sides)
    assert len(tiling) > 4
    steps = np.diff([piece.begin for piece in tiling.rows] + [1200])
    assert steps.max() - steps.min() <= HALO.align


def test_more_memory_means_no_more_tiles() -> None:
    budgets = [80_000 * 2**power for power in range(8)]
    counts = [len(plan((200, 150), (800, 600), budget)) for budget in budgets]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[3] > counts[-1]


def test_a_strip_is_cut_along_its_length() -> None:
    tiling = plan((1, 1000), (4, 4000), budget=50_000)
    assert len(tiling.rows) == 1
    assert len(tiling.columns) > 5


def test_the_smallest_workable_budget_is_named() -> None:
    with pytest.raises(MemoryBudgetError, match=r"at least (\d+) bytes") as caught:
        plan((200, 150), (800, 600), budget=1)
    least = int(str(caught.value).split()[5])
    assert plan((200, 150), (800, 600), budget=least).peak_bytes == least


def test_a_huge_picture_is_planned_quickly() -> None:
    tiling = plan((4_000, 4_000), (48_000, 48_000), budget=5_000_000)
    assert len(tiling) > 1000


def plan_of_ratio(halves: tuple[int, int], budget: int, fade: int) -> Plan:
    source = (2 * halves[0], 2 * halves[1])
    target = (4 * source[0], 4 * source[1])
    return TilePlanner(source, target, RATIO_HALO, MEMORY, fade).plan(budget)


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), st.sampled_from([0, 64]), RATIO_BUDGETS)
def test_with_a_ratio_tiles_are_windows_of_whole_cells(
    halves: tuple[int, int], fade: int, budget: int
) -> None:
    for tile in plan_of_ratio(halves, budget, fade).tiles():
        for piece, side in zip((tile.rows, tile.columns), halves, strict=True):
            extent = piece.extent
            assert extent.out_size == 4 * extent.lr_size
            assert extent.out_begin == 4 * extent.lr_begin
            assert extent.out_begin % 64 == 0
            assert extent.out_end % 64 == 0 or extent.out_end == 8 * side
            assert extent.out_begin <= piece.begin < piece.end <= extent.out_end


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), RATIO_BUDGETS)
def test_with_a_ratio_unblended_tiles_keep_every_pixel_once(
    halves: tuple[int, int], budget: int
) -> None:
    kept = np.zeros((8 * halves[0], 8 * halves[1]), dtype=int)
    for tile in plan_of_ratio(halves, budget, fade=0).tiles():
        kept[tile.rows.begin : tile.rows.end, tile.columns.begin : tile.columns.end] += 1
    assert (kept == 1).all()


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), RATIO_BUDGETS)
def test_with_a_ratio_blended_weights_sum_to_one(halves: tuple[int, int], budget: int) -> None:
    total = np.zeros((8 * halves[0], 8 * halves[1], 1))
    for tile in plan_of_ratio(halves, budget, fade=64).tiles():
        rows, columns = tile.rows, tile.columns
        total[rows.begin : rows.end, columns.begin : columns.end] += tile.weights()
    np.testing.assert_allclose(total, 1, atol=WEIGHT_ROUNDING)


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), SCALES, st.integers(100_000, 10**6))
def test_every_tile_is_one_that_some_profile_takes(
    source: tuple[int, int], scale: Fraction, budget: int
) -> None:
    target = output_size(source[0], scale), output_size(source[1], scale)
    small, tall = AxisBounds((1, 60), (1, 80)), AxisBounds((1, 70), (1, 300))
    profiles = ((small, small), (tall, small))
    tiling = TilePlanner(source, target, HALO, MEMORY, 12, limits=ProfileLimits(profiles)).plan(
        budget
    )
    assert tiling.peak_bytes <= budget
    for tile in tiling.tiles():
        window = tile.window
        assert any(
            rows.covers(window.rows) and columns.covers(window.columns)
            for rows, columns in profiles
        )


def limited(bounds: AxisBounds, *, whole_only: bool = False, budget: int = 10**9) -> Plan:
    limits = ProfileLimits(((bounds, bounds),))
    return TilePlanner((50, 40), (200, 160), HALO, MEMORY, 12, whole_only, limits).plan(budget)


def test_a_picture_that_a_profile_takes_is_one_tile() -> None:
    assert len(limited(AxisBounds((40, 50), (160, 200)))) == 1
    assert len(limited(AxisBounds((1, 49)))) == 2


def test_a_least_size_leaves_larger_tiles() -> None:
    assert len(limited(AxisBounds((25, 33)))) == 4


@pytest.mark.parametrize("whole_only", [True, False])
@pytest.mark.parametrize(
    "bounds", [AxisBounds((1, 5)), AxisBounds((60, 90)), AxisBounds((1, 99), (1, 9))]
)
def test_a_picture_that_no_profile_takes_is_refused(
    bounds: AxisBounds, whole_only: bool
) -> None:
    with pytest.raises(BundleError, match="no engine takes 40x50 to 160x200"):
        limited(bounds, whole_only=whole_only)


def test_too_little_memory_is_told_before_the_profiles() -> None:
    with pytest.raises(MemoryBudgetError, match="memory_budget must be at least"):
        limited(AxisBounds((1, 5)), budget=1)


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), SCALES, st.integers(100_000, 10**6), st.integers(1, 10**5))
def test_what_is_held_beside_the_tiles_counts(
    source: tuple[int, int], scale: Fraction, budget: int, held: int
) -> None:
    target = output_size(source[0], scale), output_size(source[1], scale)
    beside = ResidentMemory(held, 24 * target[1], counts=True)
    planner = TilePlanner(source, target, HALO, MEMORY, 12, resident=beside)
    tiling = planner.plan(2 * budget + 10**6)
    axes = (tiling.rows, tiling.columns)
    pixels = [max(piece.extent.lr_size for piece in axis) for axis in axes]
    patches = [max(-(-piece.extent.out_size // 3) for piece in axis) for axis in axes]
    run = MEMORY.estimate(pixels[0] * pixels[1], patches[0] * patches[1])
    kept = max(piece.end - piece.begin for piece in tiling.rows)
    assert tiling.peak_bytes == held + 24 * target[1] * kept + run <= 2 * budget + 10**6


def test_too_little_memory_for_the_process_names_the_option() -> None:
    held = replace(SQUARE, resident=ResidentMemory(5_000_000, counts=True))
    with pytest.raises(MemoryBudgetError, match="max_memory must be"):
        held.plan(5_000_001)


@pytest.mark.parametrize("top", [0, 240])
@pytest.mark.parametrize("held", [0, 5_000_000])
def test_smaller_tiles_take_half_the_memory(top: int, held: int) -> None:
    planner = replace(SQUARE, resident=ResidentMemory(held, counts=held > 0))
    large = planner.plan(held + 2_000_000)
    small = planner.smaller(large, top)
    assert small.peak_bytes - held <= (large.peak_bytes - held) / 2
    assert small.rows[0].begin == top
    assert small.rows[-1].end == 800


def test_tiles_can_be_halved_down_to_the_smallest() -> None:
    plans = [SQUARE.plan(10**8)]

    def halve() -> None:
        while True:
            plans.append(SQUARE.smaller(plans[-1], 0))

    with pytest.raises(MemoryBudgetError, match="no tiles smaller than 24x24"):
        halve()
    peaks = [tiling.peak_bytes for tiling in plans]
    assert peaks == sorted(set(peaks), reverse=True)
    with pytest.raises(MemoryBudgetError, match=f"at least {peaks[-1]} bytes"):
        SQUARE.plan(peaks[-1] - 1)


def test_a_whole_picture_is_not_halved() -> None:
    whole = replace(SQUARE, whole_only=True)
    with pytest.raises(MemoryBudgetError, match="no tiles smaller than 600x800"):
        whole.smaller(whole.plan(10**9), 0)


def test_halves_that_no_profile_takes_are_refused() -> None:
    bounds = AxisBounds((100, 300))
    limited_planner = replace(SQUARE, limits=ProfileLimits(((bounds, bounds),)))
    with pytest.raises(BundleError, match="no engine takes 150x200 to 600x800"):
        limited_planner.smaller(limited_planner.plan(10**9), 0)
