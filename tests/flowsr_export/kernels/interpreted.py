"""Tests of the Triton kernels in Triton's interpreter; `test_interpreter.py` runs them.

They need TRITON_INTERPRET=1 before Triton is imported, so a process of their own.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime import interpreter as triton_interpreter

from flowsr_export.graph.linf.fused import fused
from flowsr_export.graph.linf.network import LinfFixedGraph, LinfGraph
from flowsr_export.kernels import flow, operators, query, resize
from flowsr_runtime import Window
from flowsr_runtime.geometry import Extent
from tests.flowsr_export.networks import small, small_model
from tests.stand_in import network, tensor

# A rounding of the last bit of the type, and the order of float32 sums. bfloat16 has 8 bits.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DTYPES = st.sampled_from(list(TOLERANCE))
SIDES = st.integers(1, 7)

few = settings(max_examples=12, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True, scope="session")
def products_of_bfloat16() -> Iterator[None]:
    """The interpreter multiplies the bits of bfloat16 as integers; hand it float32."""
    builder = triton_interpreter.InterpreterBuilder
    multiply = builder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        return multiply(self, *(_values(x) for x in (a, b)), d, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_dot", create_dot)
        yield


def _values(x: Any) -> Any:
    if x.dtype.scalar != tl.bfloat16:
        return x
    data = (x.data.astype(np.uint32) << 16).view(np.float32)
    return triton_interpreter.TensorHandle(data, tl.float32)


def axis(pixels: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    share = torch.rand(count, 1)
    index = torch.randint(pixels, (count, 2))
    return index, torch.rand(count, 2) * 4 - 2, torch.cat((share, 1 - share), 1)


@few
@given(
    st.integers(1, 2),
    st.tuples(SIDES, SIDES, SIDES, st.integers(1, 23)),
    st.sampled_from([4, 16, 24, 48]),
    st.sampled_from([8, 24, 96]),
    DTYPES,
)
def test_the_first_product_is_its_definition(
    batch: int, sides: tuple[int, int, int, int], half: int, width: int, dtype: torch.dtype
) -> None:
    height, across, rows, cols = sides
    torch.manual_seed(half + width)
    features = torch.randn(batch, height, across, 4 * half).to(dtype)
    weight = (torch.randn(8 * half, width) / half**0.5).to(dtype)
    rest = (torch.randn(half), weight, torch.randn(width).to(dtype))
    args = (features, axis(height, rows), axis(across, cols), *rest)
    expected = operators.define_first_product(*args)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(query.launch(*args), expected, rtol=tolerance, atol=tolerance)


def flow_arguments(
    width: int, layers: int, count: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(width + layers + count)
    side = max(16, 1 << (width - 1).bit_length())
    maps = torch.zeros(layers + 1, side, side)
    maps[:, :width, :width] = torch.eye(width) + 0.1 * torch.randn(layers + 1, width, width)
    affine = torch.randn(count, 2 * layers * side).to(dtype)
    maps = maps.to(torch.float16 if dtype == torch.float16 else torch.float32)
    bias = torch.randn(2 * layers * side)
    return affine, bias, maps, 0.1 * torch.randn(layers + 1, side)


@few
@given(
    st.sampled_from([3, 12, 27, 48]),
    st.integers(1, 3),
    st.integers(1, 150),
    DTYPES,
    st.booleans(),
)
def test_the_flow_is_its_definition(
    width: int, layers: int, count: int, dtype: torch.dtype, inverse: bool
) -> None:
    arguments = flow_arguments(width, layers, count, dtype)
    z = torch.randn(count, width).to(dtype if inverse else torch.float32)
    rest = (inverse, width, torch.float32 if inverse else dtype)
    expected = operators.define_flow_pass(z, *arguments, *rest)
    output = flow.launch(z, *arguments, *rest)
    # An inverse divides by factors near zero: differences scale with the row.
    scale = expected.float().abs().amax(1, keepdim=True).clamp(min=1)
    difference = (output.float() - expected.float()).abs() / scale
    assert output.dtype == expected.dtype
    assert float(difference.max()) <= TOLERANCE[dtype]


def test_an_exploding_inverse_stays_finite_in_float16() -> None:
    affine, bias, maps, offsets = flow_arguments(27, 3, 5, torch.float16)
    affine -= 30.0
    z = torch.full((5, 27), 1e3)
    output = flow.launch(z, affine, bias, maps, offsets, True, 27, torch.float32)
    assert bool(output.isfinite().all())
    assert float(output.abs().max()) == operators.LARGEST_HALF


def test_a_value_that_is_not_a_number_is_kept() -> None:
    args = flow_arguments(27, 1, 2, torch.float16)
    output = flow.launch(torch.full((2, 27), torch.nan), *args, False, 27, torch.float32)
    assert bool(output.isnan().all())
    features = torch.full((1, 1, 1, 64), torch.nan)
    rest = (torch.zeros(16), torch.ones(128, 8), torch.zeros(8))
    output = query.launch(features, axis(1, 2), axis(1, 2), *rest)
    assert bool(output.isnan().all())


@few
@given(st.integers(1, 2), st.tuples(SIDES, SIDES, SIDES, SIDES), st.integers(1, 4))
def test_the_resizing_is_its_definition(
    batch: int, sides: tuple[int, int, int, int], patch: int
) -> None:
    height, width, rows, cols = sides
    torch.manual_seed(sum(sides))
    taps = [
        (torch.randint(pixels, (2, patch * count)), torch.rand(2, patch * count))
        for pixels, count in ((height, rows), (width, cols))
    ]
    args = (torch.randn(batch, 3, height, width), *taps[0], *taps[1], patch)
    expected = operators.define_resize_patches(*args)
    torch.testing.assert_close(resize.launch(*args), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels in place of the definitions on a CPU."""
    monkeypatch.setattr(operators, "define_first_product", query.launch)
    monkeypatch.setattr(operators, "define_flow_pass", flow.launch)
    monkeypatch.setattr(operators, "define_resize_patches", resize.launch)


WHOLE = [((9, 11), (27, 33)), ((7, 5), (19, 14)), ((1, 4), (5, 9)), ((6, 6), (72, 48))]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("lr", "size"), WHOLE)
def test_the_graph_of_kernels_is_the_deployed_graph(
    lr: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
) -> None:
    net = small(hidden_dim=24)
    rgb = torch.cat((tensor(*lr), tensor(*lr, "another")))
    geometry = torch.from_numpy(Window.whole(lr, size).geometry())
    with torch.inference_mode():
        expected = LinfGraph(net)(rgb, geometry)
        output = fused(LinfGraph(net, dtype))(rgb, geometry)
    torch.testing.assert_close(output, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_the_graph_of_kernels_takes_other_patches(patch: int) -> None:
    net = network(small_model(patch_size=patch), None)
    graph, of_kernels = (
        LinfFixedGraph(graph, Fraction(5, 2))
        for graph in (LinfGraph(net), fused(LinfGraph(net)))
    )
    rows, cols = (-(-n // patch) for n in (15, 20))
    latent = torch.randn(1, 3 * patch**2, rows, cols)
    with torch.inference_mode():
        expected = graph(tensor(6, 8), latent)
        output = of_kernels(tensor(6, 8), latent)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("kernels")
def test_a_tile_through_the_kernels_is_the_deployed_graph() -> None:
    net = small()
    window = Window(Extent(24, 64, 8, 20, 24, 51), Extent(30, 75, 9, 30, 30, 60))
    rgb = tensor(24, 30)[:, :, 8:20, 9:30]
    geometry = torch.from_numpy(window.geometry())
    with torch.inference_mode():
        expected = LinfGraph(net)(rgb, geometry)
        output = fused(LinfGraph(net))(rgb, geometry)
    torch.testing.assert_close(output, expected, rtol=0, atol=TOLERANCE[torch.float32])
