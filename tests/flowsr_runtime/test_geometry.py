"""Sizes are exact, and windows hold all LR pixels that their output depends on."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import (
    MAX_SIDE,
    Extent,
    Halo,
    Window,
    exact_scale,
    fitted_size,
    output_size,
    parse_scale,
    parse_sides,
    parse_size,
    size_for,
    size_text,
)

NO_HALO = Halo(patch=3, align=12, lr_align=3, patches=0, pixels=0)
HALOS = st.builds(
    Halo,
    patch=st.just(3),
    align=st.sampled_from([3, 12, 24]),
    lr_align=st.sampled_from([1, 3]),
    patches=st.integers(0, 30),
    pixels=st.integers(0, 20),
)
RATIO_HALOS = st.builds(
    lambda ratio, pixels: Halo(8, 16 * ratio, 16, patches=0, pixels=pixels, ratio=ratio),
    st.sampled_from([4, 8]),
    st.integers(0, 40),
)


@pytest.mark.parametrize(
    ("pixels", "scale", "expected"),
    [
        (5, 1.3, 7),  # 6.5 goes up, though 5 * 1.3 in binary is 6.5 only by luck
        (5, 2.5, 13),
        (15, 1.1, 17),  # 16.5, while the float 15 * 1.1 is 16.500000000000004
        (45, 1.1, 50),  # 49.5
        (1, 1, 1),
        (7, "4/3", 9),
        (3, Fraction(7, 2), 11),
        (100, np.float32(2.7), 270),
    ],
)
def test_sizes_are_rounded_half_up(pixels: int, scale: Any, expected: int) -> None:
    assert output_size(pixels, scale) == expected


@given(st.integers(1, 10_000), st.decimals(1, 64, places=3))
def test_sizes_follow_the_decimal_form(pixels: int, scale: Any) -> None:
    exact = math.floor(pixels * Fraction(scale) + Fraction(1, 2))
    assert output_size(pixels, float(scale)) == exact
    assert output_size(pixels, str(scale)) == exact


@pytest.mark.parametrize(
    ("rule", "scales"),
    [
        ("a finite number", [math.nan, math.inf, -math.inf, "four", "1/0"]),
        # Fraction reads these; the first one takes minutes.
        ("a finite number", ["1e9_9_9_9_9_9_9", "1_0", "\u0664", "2.\u0665", "9" * 1001]),
        ("at least 1", [0, -2, 0.5, "0.99"]),
        # Their exact value would fill the memory.
        (
            "from 1 to 1048576",
            ["1e999999999", "1E-999999999", 1e300, "2e0100", "1e99", 1e9, 10**6000],
        ),
        ("a number", [True, None, [2], 2j]),
    ],
)
def test_a_scale_that_cannot_be_is_refused(rule: str, scales: list[Any]) -> None:
    for scale in scales:
        with pytest.raises(ScaleError, match=f"scale must be {rule}, got"):
            exact_scale(scale)


def test_a_long_scale_is_shown_in_part() -> None:
    with pytest.raises(ScaleError, match=r"got 9{59}…$"):
        exact_scale("9" * 100_000)


@pytest.mark.parametrize("text", ["9" * 5000 + "x4", "4x\u0664", "1_0x9"])
def test_a_size_has_few_ascii_digits(text: str) -> None:
    with pytest.raises(ScaleError, match=r"size must be such as 1920x1080, got '.{,60}'$"):
        parse_size(text)


@pytest.mark.parametrize("scale", [(1, 2, 3), ()])
def test_a_scale_of_another_length_is_refused(scale: Any) -> None:
    with pytest.raises(ScaleError, match=r"scale must be one number or \(row, column\)"):
        size_for((10, 10), scale=scale, size=None)


def test_a_target_is_a_size_or_a_scale_per_axis() -> None:
    assert size_for((10, 10), scale=(2.7, 3.6), size=None) == (27, 36)
    assert size_for((10, 10), scale=None, size=(10, 33)) == (10, 33)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9, 20), "size must be at least the image's 10x10, got 20x9"),
        ((0, 20), "size must be at least the image's 10x10, got 20x0"),
        ((20.0, 20), "size must be two whole numbers, got 20.0 and 20"),
        ((20,), r"size must be \(H, W\), got \(20,\)"),
        (20, r"size must be \(H, W\), got 20"),
    ],
)
def test_a_size_that_cannot_be_is_refused(size: Any, message: str) -> None:
    with pytest.raises(ScaleError, match=message):
        size_for((10, 10), scale=None, size=size)


def test_an_output_beyond_int64_geometry_is_refused() -> None:
    with pytest.raises(ScaleError, match=f"at most {MAX_SIDE} pixels, got 10000000x"):
        size_for((10, 10), scale=1e6, size=None)


def test_a_whole_picture_has_the_contracts_geometry() -> None:
    window = Window.whole((5, 6), (20, 22))
    assert window.geometry().dtype == np.int64
    assert window.geometry().tolist() == [5, 6, 20, 22, 0, 0, 0, 0, 20, 22]


def test_a_tile_has_the_contracts_geometry() -> None:
    window = Window(Extent(5, 20, 3, 5, 12, 20), Extent(6, 22, 0, 4, 0, 12))
    assert window.geometry().tolist() == [5, 6, 20, 22, 3, 0, 12, 0, 8, 12]


@given(st.data(), st.integers(1, 60), st.fractions(1, 12, max_denominator=20), HALOS)
def test_a_window_is_aligned_and_holds_every_lr_row_that_it_reads(
    data: st.DataObject, source: int, scale: Fraction, halo: Halo
) -> None:
    target = output_size(source, scale)
    begin = data.draw(st.integers(0, (target - 1) // halo.align)) * halo.align
    end = data.draw(st.integers(begin + 1, target))
    extent = Extent.around(begin, end, source, target, halo)
    rows = range(extent.out_begin, extent.out_end)
    read = [math.floor(Fraction((2 * Y + 1) * source - target, 2 * target)) for Y in rows]
    assert extent.lr_begin <= max(0, min(read) - halo.pixels)
    assert extent.lr_end >= min(source, max(read) + 2 + halo.pixels)
    assert extent.out_begin % halo.align == extent.lr_begin % halo.lr_align == 0
    assert 0 <= extent.lr_begin < extent.lr_end <= source
    assert 0 <= extent.out_begin <= max(0, begin - 3 * halo.patches)
    assert target >= extent.out_end == min(target, end + 3 * halo.patches)


def test_without_a_halo_only_the_neighbors_are_read() -> None:
    extent = Extent.around(12, 24, 100, 400, NO_HALO)
    assert (extent.out_begin, extent.out_end) == (12, 24)
    assert (extent.lr_begin, extent.lr_end) == (0, 7)  # 2 to 6, aligned down


@given(st.data(), st.integers(1, 120), RATIO_HALOS)
def test_with_a_ratio_the_window_is_the_tile_enlarged(
    data: st.DataObject, halves: int, halo: Halo
) -> None:
    source, ratio = 2 * halves, halo.ratio or 0
    target = source * ratio
    begin = data.draw(st.integers(0, (target - 1) // halo.align)) * halo.align
    end = data.draw(st.integers(begin + 1, target))
    extent = Extent.around(begin, end, source, target, halo)
    assert (extent.lr_begin * ratio, extent.lr_end * ratio) == (
        extent.out_begin,
        extent.out_end,
    )
    assert extent.out_begin % halo.align == extent.lr_begin % halo.lr_align == 0
    assert extent.out_end == target or extent.out_end % halo.align == 0
    assert extent.lr_size % 2 == 0
    margin = halo.pixels * ratio
    assert max(0, begin - margin - halo.align) <= extent.out_begin <= max(0, begin - margin)
    assert min(target, end + margin) <= extent.out_end < end + margin + halo.align


def test_with_a_ratio_the_geometry_is_that_of_the_padded_picture() -> None:
    halo = Halo(patch=8, align=64, lr_align=16, patches=0, pixels=3, ratio=4)
    rows = Extent.around(128, 192, 60, 240, halo)
    columns = Extent.around(0, 64, 34, 136, halo)
    assert Window(rows, columns).geometry().tolist() == [
        *(60, 34, 240, 136),
        *(16, 0, 64, 0),
        *(176, 128),
    ]


def test_factors_and_sizes_are_width_and_height_and_come_out_vertical_first() -> None:
    assert parse_scale(" 2.70 ") == "2.70"
    assert parse_scale("2.7x3.6") == ("3.6", "2.7")
    assert parse_size("1920X1080") == (1080, 1920)
    assert size_text((1080, 1920)) == "1920x1080"
    with pytest.raises(ScaleError, match="'1x2x3'"):
        parse_scale("1x2x3")


@pytest.mark.parametrize("value", ["1920", "x1080", "1920x1080x3", "19.5x10", ""])
def test_another_form_of_size_is_refused(value: str) -> None:
    with pytest.raises(ScaleError, match=f"got {value!r}"):
        parse_size(value)


@pytest.mark.parametrize(
    ("text", "sides"), [("40x30", (30, 40)), ("40x", (None, 40)), ("X30", (30, None))]
)
def test_a_size_has_one_side_or_two(text: str, sides: tuple[int | None, int | None]) -> None:
    assert parse_sides(text) == sides


@pytest.mark.parametrize("text", ["x", "40", "-4x", "4x4x", "4_0x", "\u0664x", ""])
def test_a_size_of_no_side_is_refused(text: str) -> None:
    with pytest.raises(ScaleError, match=r"size must be such as 1920x1080, got"):
        parse_sides(text)


def is_in_shape(
    got: tuple[int, int], source: tuple[int, int], size: tuple[int, int], axis: int
) -> bool:
    """Return whether one axis has the size that was asked, and the other follows from it."""
    exact = Fraction(source[1 - axis] * size[axis], source[axis])
    near = abs(got[1 - axis] - exact) <= Fraction(1, 2) or got[1 - axis] == 1
    return got[axis] == size[axis] and near


@given(
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
)
def test_a_fitted_size_touches_the_size_that_was_asked(
    source: tuple[int, int], size: tuple[int, int]
) -> None:
    inside, cover = fitted_size(source, size, "inside"), fitted_size(source, size, "cover")
    assert all(got <= most for got, most in zip(inside, size, strict=True))
    assert all(got >= least for got, least in zip(cover, size, strict=True))
    for got in (inside, cover):
        assert any(is_in_shape(got, source, size, axis) for axis in (0, 1))
    assert fitted_size(source, size) == size
