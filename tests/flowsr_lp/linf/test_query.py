import torch
from hypothesis import given
from hypothesis import strategies as st

from flowsr_lp.linf.query import Border, patch_count, queries

BORDERS: tuple[Border, ...] = ("extend", "tight", "paired")

lr_sides = st.integers(1, 40)
sides = st.integers(1, 130)
patches = st.sampled_from([1, 3])


@given(h=lr_sides, size=sides, patch=patches)
def test_neighbours_bracket_the_centre(h: int, size: int, patch: int) -> None:
    query = queries((h, 1), (size, 1), patch, "extend")
    row = torch.arange(query.rows).repeat_interleave(query.cols)
    centre = ((patch * (2 * row + 1)) * h / size - 1) / 2  # in LR index units
    low, high = query.index[:, 0], query.index[:, 2]
    # Rounding of the float centre, far below the distance of two different ones.
    assert (low <= centre.clamp(0, h - 1) + 1e-4).all()
    assert (high >= centre.clamp(0, h - 1) - 1e-4).all()
    assert ((high - low == 1) | (low == 0) | (high == h - 1)).all()


@given(h=lr_sides, w=lr_sides, rows=sides, cols=sides, patch=patches)
def test_offsets_lead_from_the_neighbour_to_the_centre(
    h: int, w: int, rows: int, cols: int, patch: int
) -> None:
    query = queries((h, w), (rows, cols), patch, "extend")
    i = torch.arange(query.rows * query.cols)
    y = (patch * (2 * (i // query.cols) + 1) * h / rows - 1) / 2
    x = (patch * (2 * (i % query.cols) + 1) * w / cols - 1) / 2
    row = torch.div(query.index, w, rounding_mode="floor")
    wanted = 2 * torch.stack((y[:, None] - row, x[:, None] - query.index % w), dim=-1)
    assert torch.allclose(query.offset, wanted, atol=1e-3)


@given(h=lr_sides, w=lr_sides, rows=sides, cols=sides, patch=patches)
def test_weights_sum_to_one(h: int, w: int, rows: int, cols: int, patch: int) -> None:
    weight = queries((h, w), (rows, cols), patch, "extend").weight
    assert torch.allclose(weight.sum(-1), torch.ones(len(weight)), atol=1e-6)
    assert (weight >= 0).all()


@given(
    h=lr_sides,
    w=lr_sides,
    thirds=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    rest=st.tuples(st.sampled_from([-1, 0]), st.sampled_from([-1, 0])),
)
def test_extend_equals_tight_when_no_centre_is_outside(
    h: int, w: int, thirds: tuple[int, int], rest: tuple[int, int]
) -> None:
    size = (3 * thirds[0] + rest[0], 3 * thirds[1] + rest[1])
    ours, released = (queries((h, w), size, 3, border) for border in BORDERS[:2])
    assert torch.equal(ours.index, released.index)
    assert torch.equal(ours.offset, released.offset)
    assert torch.equal(ours.weight, released.weight)


@given(size=st.integers(1, 1000), patch=patches)
def test_patches_cover_the_picture(size: int, patch: int) -> None:
    extend, tight, paired = (patch_count(size, patch, border) for border in BORDERS)
    assert extend == tight == -(-size // patch)
    assert paired == size // patch + 1
    assert 0 <= extend * patch - size < patch


def test_a_tie_reads_the_pixel_itself_and_the_next() -> None:
    query = queries((4, 1), (12, 1), 3, "extend")
    assert query.index[:, 0].tolist() == [0, 1, 2, 3]
    assert query.index[:, 2].tolist() == [1, 2, 3, 3]


def test_both_neighbours_on_one_pixel_count_half_each() -> None:
    query = queries((4, 4), (12, 12), 3, "extend")
    assert query.weight[-1].tolist() == [0.25] * 4
    assert query.weight[0].tolist() == [1, 0, 0, 0]


def test_a_released_patch_outside_reads_the_middle_of_the_picture() -> None:
    # Coordinate 0 is u = 8 / 2 - 0.5 = 3.5 on both axes, also where one alone is outside.
    query = queries((8, 8), (16, 16), 3, "tight")
    middle = 3 * 8 + 3
    assert query.index[-1].tolist() == [middle, middle + 1, middle + 8, middle + 9]
    assert query.index[5].tolist() == query.index[-1].tolist()


def test_neighbours_are_in_row_column_order() -> None:
    query = queries((10, 10), (40, 40), 3, "extend")
    fifth = query.index[5 * query.cols + 5]  # centre 16: u = 3.625
    assert fifth.tolist() == [33, 34, 43, 44]
