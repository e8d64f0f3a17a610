"""SRFlow's graph in the operators of its couplings is the deployed graph."""

from collections import Counter
from fractions import Fraction

import pytest
import torch

from flowsr_export.deployment.families import deployment_of
from flowsr_export.graph.srflow.fused import fused_couplings
from flowsr_export.graph.srflow.network import SrflowGraph, SrflowPlainGraph, SrflowSampledGraph
from flowsr_runtime.bundle.engine_store import Range
from tests.flowsr_export.networks import small_srflow, small_srflow_model
from tests.stand_in import srflow_network

COUPLINGS = 3  # of the small network, one a level


@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)]
)
def test_it_is_the_deployed_graph(dtype: torch.dtype, close: float) -> None:
    net, rgb = small_srflow(), torch.rand(2, 3, 24, 32)
    with torch.inference_mode():
        expected = SrflowPlainGraph(SrflowGraph(net, dtype))(rgb)
        output = fused_couplings(SrflowPlainGraph(SrflowGraph(net, dtype)))(rgb)
    torch.testing.assert_close(output, expected, rtol=0, atol=close)


def test_it_decodes_latents_that_are_drawn_outside() -> None:
    net = srflow_network(small_srflow_model(K=2), None)
    rgb = torch.rand(1, 3, 16, 24)
    latents = [
        torch.randn(1, x.channels, 4 * 16 // x.patch, 4 * 24 // x.patch)
        for x in net.srflow.latents
    ]
    with torch.inference_mode():
        expected = SrflowSampledGraph(SrflowGraph(net))(rgb, *latents)
        output = fused_couplings(SrflowSampledGraph(SrflowGraph(net)))(rgb, *latents)
    scale = float(expected.abs().max().clamp(min=1))
    torch.testing.assert_close(output / scale, expected / scale, rtol=0, atol=1e-5)


def test_an_export_keeps_the_operators() -> None:
    deployment = deployment_of(small_srflow())
    shape = (1, 3, 32, 40)
    profile = {"input": Range(shape, shape, shape)}
    given = deployment.compilable(torch.float32, Fraction(4), profile, fuse=True)
    exported = torch.export.export(given.module, tuple(given.example.values()), strict=False)
    counts = Counter(str(node.target) for node in exported.graph.nodes)
    assert counts["flowsr.coupling_map.default"] == 2 * COUPLINGS
    assert counts["flowsr.coupling_hidden.default"] == 2 * COUPLINGS
    with torch.inference_mode():
        rgb = torch.rand(shape)
        expected = deployment.graph(torch.float32, Fraction(4))(rgb)
        torch.testing.assert_close(exported.module()(rgb), expected, rtol=0, atol=1e-5)
