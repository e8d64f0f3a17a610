import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flowsr_export.graph.axis import (
    Axis,
    Taps,
    aligned_taps,
    half_pixel_taps,
    low_pass,
    neighbours,
    patch_count,
    quotient,
    resized,
)
from flowsr_lp.linf.query import queries

# PyTorch computes sampling positions in float32: their error, not that of the taps.
TOLERANCE = 2e-5


def axis(lr: int, out: int, patch: int = 3) -> Axis:
    return Axis(lr, out, 0, 0, lr, patch_count(out, patch), patch)


def rows(length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.rand(1, 1, length, 1, generator=generator)


@given(lr=st.integers(1, 60), out=st.integers(1, 200))
@settings(deadline=None, max_examples=60)
def test_half_pixel_taps_resize_as_pytorch_does(lr: int, out: int) -> None:
    x = rows(lr)
    taps = half_pixel_taps(torch.arange(out), out, lr, 0, lr)
    expected = F.interpolate(x, size=(out, 1), mode="bilinear", align_corners=False)
    torch.testing.assert_close(taps.read(x, 2), expected, rtol=0, atol=TOLERANCE)


@given(lr=st.integers(1, 30), out=st.integers(1, 90), origin=st.integers(0, 29))
@settings(deadline=None, max_examples=40)
def test_a_product_with_the_matrix_of_taps_is_what_they_read(
    lr: int, out: int, origin: int
) -> None:
    tile = rows(lr)[:, :, min(origin, lr - 1) :]
    index = torch.arange(out + 2)
    taps = half_pixel_taps(index, out, lr, lr - tile.shape[2], tile.shape[2])
    torch.testing.assert_close(taps.matrix() @ tile, taps.read(tile, 2))


@pytest.mark.parametrize("products", [False, True])
def test_images_are_resized_along_both_axes(products: bool) -> None:
    x = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    row, col = (
        half_pixel_taps(torch.arange(n_out), n_out, n_in, 0, n_in)
        for n_out, n_in in ((17, 7), (9, 5))
    )
    expected = F.interpolate(x, size=(17, 9), mode="bilinear", align_corners=False)
    output = resized(x, row, col, products=products)
    torch.testing.assert_close(output, expected, rtol=0, atol=TOLERANCE)


@given(n=st.integers(1, 90))
@settings(deadline=None, max_examples=40)
def test_aligned_taps_double_as_pytorch_does(n: int) -> None:
    x = rows(n)
    taps = aligned_taps(torch.arange(2 * n), n, 0, n)
    expected = F.interpolate(x, size=(2 * n, 1), mode="bilinear", align_corners=True)
    torch.testing.assert_close(taps.read(x, 2), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "taps",
    [
        aligned_taps(torch.tensor([6, 7]), 3, 0, 3),
        half_pixel_taps(torch.tensor([9, 10]), 9, 3, 0, 3),
    ],
    ids=["aligned", "half-pixel"],
)
def test_taps_are_zero_beyond_the_image(taps: Taps) -> None:
    assert taps.read(torch.ones(1, 1, 3, 1), 2).abs().sum() == 0


@given(lr=st.integers(1, 40), factor=st.floats(1, 5))
@settings(deadline=None, max_examples=40)
def test_the_low_pass_is_up_and_down_again(lr: int, factor: float) -> None:
    out = max(lr, round(lr * factor))
    x = rows(lr)
    up = F.interpolate(x, size=(out, 1), mode="bilinear", align_corners=False)
    down = F.interpolate(up, size=(lr, 1), mode="bilinear", align_corners=False)
    output = low_pass(x, axis(lr, out), 2)
    torch.testing.assert_close(output, down, rtol=0, atol=TOLERANCE)


@given(lr=st.integers(1, 40), out=st.integers(1, 160), patch=st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=60)
def test_neighbours_are_those_of_the_reference(lr: int, out: int, patch: int) -> None:
    query = queries((lr, 1), (out, 1), patch, "extend")
    index, offset, weight = neighbours(axis(lr, out, patch))
    across = query.cols
    expected = query.index.view(query.rows, across, 2, 2)[:, 0, :, 0]
    assert torch.equal(index, expected)
    offsets = query.offset.view(query.rows, across, 2, 2, 2)[:, 0, :, 0, 0]
    torch.testing.assert_close(offset, offsets.float(), rtol=0, atol=1e-6)
    weights = query.weight.view(query.rows, across, 2, 2)[:, 0].sum(-1)
    torch.testing.assert_close(weight, weights.float(), rtol=0, atol=1e-6)


def test_a_tile_reads_the_same_pixels_as_the_whole_picture() -> None:
    whole = neighbours(axis(40, 101))
    tile = neighbours(Axis(40, 101, 9, 36, 20, 6, 3))
    assert torch.equal(tile[0] + 9, whole[0][12:18])
    assert torch.equal(tile[1], whole[1][12:18])
    assert torch.equal(tile[2], whole[2][12:18])


def test_geometry_is_exact_beyond_float32s_integers() -> None:
    index, _, _ = neighbours(Axis(4001, 16016, 0, 15999, 4001, 5, 3))
    patches = range(5333, 5338)
    exact = [((6 * i + 3) * 4001 - 16016) // (2 * 16016) for i in patches]
    assert index[:, 0].tolist() == exact


@pytest.mark.parametrize("number", [7, torch.tensor(7)])
def test_quotients_of_ints_and_tensors_agree(number: int | Tensor) -> None:
    assert int(quotient(number, 2)) == 3
