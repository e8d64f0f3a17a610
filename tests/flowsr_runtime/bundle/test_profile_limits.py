"""Profiles as bounds of each axis: a tile is taken where one profile takes both its axes."""

from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime.bundle.engine_store import Profile, Range
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.bundle.profile_limits import AxisBounds, ProfileLimits, bounds_of
from flowsr_runtime.geometry import Extent, Window

SIDES = st.integers(1, 60)
LATENT = Latent("latent", 27, 3)


def profile(least: int, most: int, window: int) -> Profile:
    """Return a profile for squares, with windows up to a side."""
    low = (1, 1, 1, 1, 0, 0, 0, 0, 1, 1)
    high = (99, 99, 500, 500, 99, 99, 500, 500, window, window)
    return {
        "input": Range((1, 3, least, least), (1, 3, most, most), (2, 3, most, most)),
        "geometry": Range(low, high, high),
    }


@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(1, 4))
def test_bounds_take_what_the_profile_covers(
    begins: tuple[int, int], sides: tuple[int, int], scale: int
) -> None:
    extents = [
        Extent(150, 600, begin, begin + side, scale * begin, scale * (begin + side))
        for begin, side in zip(begins, sides, strict=True)
    ]
    item = {**profile(4, 40, 100), "geometry": Range((1,) * 10, (50,) * 10, (600,) * 10)}
    bounds = bounds_of(item)
    assert bounds is not None
    values = tuple(int(value) for value in Window(*extents).geometry())
    covered = item["input"].covers((1, 3, *sides)) and item["geometry"].covers(values)
    taken = [each.covers(extent) for each, extent in zip(bounds, extents, strict=True)]
    assert all(taken) == covered


def test_a_grid_of_latents_bounds_the_window() -> None:
    grids = Range((1, 27, 2, 3), (1, 27, 4, 4), (1, 27, 5, 9))
    bounds = bounds_of({**profile(1, 9, 14), "latent": grids}, [LATENT])
    assert bounds is not None
    assert [each.out_size for each in bounds] == [(4, 14), (7, 14)]


def test_a_profile_for_batches_alone_takes_no_picture() -> None:
    pair = Range((2, 3, 1, 1), (2, 3, 8, 8), (4, 3, 8, 8))
    assert bounds_of({"input": pair}) is None


def test_an_engine_without_profiles_is_not_bounded() -> None:
    bounds = bounds_of({})
    assert bounds is not None
    assert all(each.covers(Extent.whole(7, 9000)) for each in bounds)


def test_pieces_are_marked_with_the_profiles_that_take_them() -> None:
    small, large = AxisBounds((1, 8)), AxisBounds((4, 16))
    limits = ProfileLimits(((small, small), (large, replace(large, lr_size=(9, 16)))))
    extents = [Extent.whole(side, side) for side in (2, 6, 12, 99)]
    assert limits.matching_profiles(0, extents) == {0b01, 0b11, 0b10, 0}
    assert limits.matching_profiles(1, extents) == {0b01, 0b10, 0}


def test_the_error_of_a_picture_that_is_not_taken_tells_what_to_build() -> None:
    error = ProfileLimits((), {"precision": "fp16"}).missing((20, 30), (27, 40), 700)
    assert "30x20 to 40x27" in str(error)
    assert error.build == {
        "precision": "fp16",
        "lr_size": (20, 30),
        "size": (27, 40),
        "scale": (Fraction(27, 20), Fraction(4, 3)),
        "memory_budget": 700,
    }
