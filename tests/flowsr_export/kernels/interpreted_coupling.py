"""Tests of SRFlow's Triton kernels in Triton's interpreter; see `interpreted.py`."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flowsr_export.graph.srflow.fused import fused_couplings
from flowsr_export.graph.srflow.network import SrflowGraph, SrflowPlainGraph
from flowsr_export.kernels import coupling, coupling_operators
from tests.flowsr_export.networks import small_srflow

# The order of float32 sums; the halves that the kernels read are exact in float32.
CLOSE = 2e-5
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])

few = settings(max_examples=12, deadline=None, derandomize=True, database=None)


def assert_close(output: Tensor, expected: Tensor) -> None:
    """Compare with the size of each row: an inverse divides by factors near zero."""
    scale = expected.abs().amax(1, keepdim=True).clamp(min=1)
    assert output.dtype == expected.dtype == torch.float32
    assert float(((output - expected).abs() / scale).max()) <= CLOSE


@few
@given(st.integers(1, 150), st.sampled_from([8, 16, 27, 64, 96]), st.integers(0, 2), DTYPES)
def test_the_hidden_layer_is_its_definition(
    cells: int, width: int, index: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(cells + width)
    weight = torch.randn(width, width) / width**0.5
    own, features = torch.randn(cells, width), torch.randn(cells, 3 * width).to(dtype)
    args = (own, features, index * width, weight, torch.randn(width))
    expected = coupling_operators.define_coupling_hidden(*args)
    assert_close(coupling.launch_hidden(*args), expected)


@few
@given(
    st.integers(1, 150),
    st.sampled_from([2, 6, 12, 24, 34, 96]),
    st.integers(0, 2),
    DTYPES,
    st.booleans(),
    st.booleans(),
)
def test_the_map_is_its_definition(
    cells: int, width: int, index: int, dtype: torch.dtype, inverse: bool, has_net: bool
) -> None:
    torch.manual_seed(cells + width)
    net = torch.randn(cells, width) if has_net else None
    weight = torch.eye(width) + torch.randn(width, width) / width
    affine, bias = torch.randn(cells, 6 * width).to(dtype), torch.randn(6 * width)
    x = torch.randn(cells, width)
    args = (x, net, weight, torch.randn(width), affine, bias, 2 * index * width, inverse)
    expected = coupling_operators.define_coupling_map(*args)
    assert_close(coupling.launch_map(*args), expected)


def test_a_value_that_is_not_a_number_is_kept() -> None:
    own, ones = torch.full((3, 8), torch.nan), torch.ones(3, 8)
    output = coupling.launch_hidden(own, ones, 0, torch.ones(8, 8), torch.zeros(8))
    assert bool(output.isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_graph_of_kernels_is_the_deployed_graph(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def noted(name: str, launch: Any) -> Any:
        def run(*args: Any) -> Tensor:
            ran.append(name)
            output: Tensor = launch(*args)
            return output

        return run

    for name in ("hidden", "map"):
        launch = noted(name, getattr(coupling, f"launch_{name}"))
        monkeypatch.setattr(coupling_operators, f"define_coupling_{name}", launch)
    net, rgb = small_srflow(), torch.rand(2, 3, 8, 10)
    with torch.inference_mode():
        expected = SrflowPlainGraph(SrflowGraph(net, dtype))(rgb)
        output = fused_couplings(SrflowPlainGraph(SrflowGraph(net, dtype)))(rgb)
    assert {ran.count(name) for name in ("hidden", "map")} == {6}  # three couplings, two ways
    tolerance = 1e-4 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance)
