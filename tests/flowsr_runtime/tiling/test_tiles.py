"""Pieces lie and overlap as they should, and tiles blend into the picture."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowsr_runtime.errors import MemoryBudgetError
from flowsr_runtime.geometry import Halo, output_size
from flowsr_runtime.tiling.tiles import Plan, Tile, TileSpan, blend, pieces_of

HALO = Halo(patch=3, align=12, lr_align=3, patches=4, pixels=2)
SIDES = st.integers(1, 80)
SCALES = st.fractions(1, 12, max_denominator=20)
FADES = st.sampled_from([0, 1, 5, 12])
COUNTS = st.integers(1, 6)
# Weights are float32 and each pixel has at most four.
WEIGHT_ROUNDING = 1e-6


def cut(
    source: int, target: int, count: int, fade: int, begin: int = 0
) -> tuple[TileSpan, ...]:
    """Cut an axis into that many pieces, or as many as there can be."""
    count = min(count, -(-(target - begin) // HALO.align))
    return pieces_of(source, target, count=count, halo=HALO, fade=fade, begin=begin)


def unexpected(plan: Plan, top: int, error: MemoryError) -> Plan:
    raise AssertionError("no memory runs out here") from error


@given(SIDES, SCALES, FADES, st.data())
def test_weights_of_an_axis_sum_to_one(
    source: int, scale: Fraction, fade: int, data: st.DataObject
) -> None:
    target = output_size(source, scale)
    count = data.draw(st.integers(1, -(-target // HALO.align)))
    total = np.zeros(target, dtype=np.float32)
    for piece in pieces_of(source, target, count=count, halo=HALO, fade=fade):
        weights = piece.weights()
        assert (weights > 0).all()
        total[piece.begin : piece.end] += weights
    np.testing.assert_allclose(total, 1, atol=WEIGHT_ROUNDING)


@given(SIDES, SCALES, FADES, st.data())
def test_pieces_begin_aligned_and_lie_inside_what_is_computed(
    source: int, scale: Fraction, fade: int, data: st.DataObject
) -> None:
    target = output_size(source, scale)
    count = data.draw(st.integers(1, -(-target // HALO.align)))
    pieces = pieces_of(source, target, count=count, halo=HALO, fade=fade)
    assert len(pieces) == count
    for piece in pieces:
        assert piece.begin % HALO.align == 0
        assert piece.extent.out_begin <= piece.begin < piece.end <= piece.extent.out_end
        assert len(range(piece.extent.out_size)[piece.core]) == piece.end - piece.begin


@given(SIDES, SCALES, FADES, st.data())
def test_what_is_left_of_an_axis_is_cut_to_go_with_the_piece_before(
    source: int, scale: Fraction, fade: int, data: st.DataObject
) -> None:
    target = output_size(source, scale)
    pieces = cut(source, target, data.draw(COUNTS), fade)
    last = data.draw(st.integers(0, len(pieces) - 1))
    rest = cut(source, target, data.draw(COUNTS), fade, begin=pieces[last].begin)
    total = np.zeros(target, dtype=np.float32)
    for piece in (*pieces[:last], *rest):
        total[piece.begin : piece.end] += piece.weights()
    np.testing.assert_allclose(total, 1, atol=WEIGHT_ROUNDING)


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), SCALES, FADES, st.tuples(COUNTS, COUNTS))
def test_blending_agreeing_tiles_gives_the_picture(
    source: tuple[int, int], scale: Fraction, fade: int, counts: tuple[int, int]
) -> None:
    target = output_size(source[0], scale), output_size(source[1], scale)
    picture = np.random.default_rng(0).random((*target, 3), dtype=np.float32)
    result = np.full_like(picture, np.nan)
    axes = zip(source, target, counts, strict=True)
    rows, columns = (cut(*axis, fade) for axis in axes)
    plan = Plan(rows, columns, 0, 0)

    def compute(tile: Tile) -> NDArray[np.float32]:
        rows, columns = tile.rows, tile.columns
        return picture[rows.begin : rows.end, columns.begin : columns.end]

    for finished, band in blend(plan, compute, unexpected):
        assert np.isnan(result[finished]).all()  # each row is finished once
        result[finished] = band
    np.testing.assert_allclose(result, picture, atol=WEIGHT_ROUNDING)


class Scarce:
    """A picture whose tiles run out of memory from a row on, until they are narrower."""

    def __init__(self, picture: NDArray[np.float32], failing: int) -> None:
        self.picture = picture
        self.failing = failing
        self.plans: list[Plan] = []

    def compute(self, tile: Tile) -> NDArray[np.float32]:
        if not self.plans and tile.rows.begin >= self.failing:
            raise MemoryBudgetError("out of memory")
        rows, columns = tile.rows, tile.columns
        return self.picture[rows.begin : rows.end, columns.begin : columns.end]

    def join(self, plan: Plan, rest: Plan) -> NDArray[np.float32]:
        """Blend the tiles of a plan, and of another where memory runs out."""

        def smaller(failed: Plan, top: int, error: MemoryError) -> Plan:
            assert (failed, top) == (plan, self.failing)
            self.plans.append(rest)
            return rest

        result = np.full_like(self.picture, np.nan)
        for rows, band in blend(plan, self.compute, smaller):
            assert np.isnan(result[rows]).all()  # each row is finished once
            result[rows] = band
        return result


@settings(deadline=None)
@given(st.tuples(SIDES, SIDES), SCALES, FADES, st.tuples(COUNTS, COUNTS, COUNTS), st.data())
def test_smaller_tiles_from_any_row_on_give_the_picture_too(
    source: tuple[int, int],
    scale: Fraction,
    fade: int,
    counts: tuple[int, int, int],
    data: st.DataObject,
) -> None:
    target = output_size(source[0], scale), output_size(source[1], scale)
    picture = np.random.default_rng(0).random((*target, 3), dtype=np.float32)
    rows = cut(source[0], target[0], counts[0], fade)
    failing = data.draw(st.sampled_from(rows)).begin
    rest = cut(source[0], target[0], counts[2], fade, begin=failing)
    plan = Plan(rows, cut(source[1], target[1], counts[1], fade), 0, 0)
    scarce = Scarce(picture, failing)
    result = scarce.join(plan, Plan(rest, cut(source[1], target[1], 9, fade), 0, 0))
    np.testing.assert_allclose(result, picture, atol=WEIGHT_ROUNDING)
    assert len(scarce.plans) == 1


def test_what_smaller_raises_ends_it() -> None:
    def compute(tile: Tile) -> NDArray[np.float32]:
        raise MemoryError("no more")

    def smaller(plan: Plan, top: int, error: MemoryError) -> Plan:
        raise MemoryBudgetError(f"cannot go on after: {error}")

    plan = Plan(cut(9, 36, 2, 0), cut(9, 36, 2, 0), 0, 0)
    with pytest.raises(MemoryBudgetError, match="cannot go on after: no more"):
        list(blend(plan, compute, smaller))
