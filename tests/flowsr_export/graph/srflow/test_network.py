"""The restated SRFlow is the published one: whole pictures, tiles, both scales."""

import pytest
import torch
from torch import Tensor

from flowsr_export.deployment.families import deployment_of
from flowsr_export.graph.srflow.folding import DoubledConv, levels_of
from flowsr_export.graph.srflow.network import SrflowGraph, SrflowPlainGraph, SrflowSampledGraph
from flowsr_lp import SrflowLP
from flowsr_runtime import Window
from flowsr_runtime.geometry import Extent
from tests.flowsr_export.networks import (
    small_srflow,
    small_srflow_model,
    small_srflow_prior,
)
from tests.stand_in import noise, srflow_network, tensor

# Float32 sums in another order, through the flow and back.
SAME = 5e-5

SIZES = [(8, 8), (20, 26), (2, 14), (32, 18)]


def reference(net: SrflowLP, rgb: Tensor) -> Tensor:
    with torch.inference_mode():
        output: Tensor = net(rgb).output
    return output


@pytest.mark.parametrize("lr", SIZES)
@torch.inference_mode()
def test_the_graph_is_the_model(lr: tuple[int, int]) -> None:
    net = small_srflow()
    rgb = torch.cat((tensor(*lr), tensor(*lr, "another")))
    window = Window.whole(lr, (4 * lr[0], 4 * lr[1]))
    output = SrflowGraph(net)(rgb, torch.from_numpy(window.geometry()))
    torch.testing.assert_close(output, reference(net, rgb), rtol=0, atol=SAME)


@torch.inference_mode()
def test_the_plain_graph_takes_the_picture_alone() -> None:
    net = small_srflow()
    rgb = tensor(20, 26)
    output = SrflowPlainGraph(SrflowGraph(net))(rgb)
    torch.testing.assert_close(output, reference(net, rgb), rtol=0, atol=SAME)


@pytest.mark.parametrize("scale", [4, 8])
@torch.inference_mode()
def test_without_a_prior_the_graph_decodes_the_latents_it_is_given(scale: int) -> None:
    spec = small_srflow_model(scale=scale, L=scale.bit_length())
    net = srflow_network(spec, None)
    rgb = tensor(6, 10)
    latents = [0.5 * noise(1, *shape) for shape in net.latent_sizes((6, 10))]
    output = SrflowSampledGraph(SrflowGraph(net))(rgb, *latents)
    expected = net(rgb, latents).output
    torch.testing.assert_close(output, expected, rtol=0, atol=SAME)


@torch.inference_mode()
def test_a_tile_with_the_whole_receptive_field_is_the_whole_picture() -> None:
    net = small_srflow(small_srflow_prior(depth=1), nb=1, blocks=[0])
    halo = deployment_of(net).exact_halo()
    side = 16 * (2 * halo.pixels // 16 + 4)
    rgb = tensor(16, side)
    graph = SrflowGraph(net)
    whole_rows, size = Extent.whole(16, 64), 4 * side
    whole = graph(rgb, torch.from_numpy(Window.whole((16, side), (64, size)).geometry()))
    middle = size // 2
    extent = Extent.around(middle, middle + 64, side, size, halo)
    assert 0 < extent.lr_begin < extent.lr_end < side
    window = Window(whole_rows, extent)
    tile = rgb[..., extent.lr_begin : extent.lr_end]
    output = graph(tile, torch.from_numpy(window.geometry()))
    kept = output[..., middle - extent.out_begin :][..., :64]
    torch.testing.assert_close(kept, whole[..., middle : middle + 64], rtol=0, atol=1e-5)


def test_every_step_of_the_flow_is_in_the_levels() -> None:
    levels = levels_of(small_srflow(K=3).srflow)
    assert [len(level.couplings) for level in levels] == [3, 3, 3]
    assert [level.split is not None for level in levels] == [True, False, False]
    assert [level.couplings[0].width for level in levels] == [12, 24, 96]


def test_a_folded_inverse_undoes_its_map() -> None:
    coupling = levels_of(small_srflow().srflow)[1].couplings[0]
    (weight, bias), (inverse, back) = coupling.forward, coupling.inverse
    product = inverse.flatten(1) @ weight.flatten(1)
    assert torch.allclose(product, torch.eye(len(bias), dtype=torch.float64), atol=1e-12)
    assert torch.allclose(inverse.flatten(1) @ bias + back, torch.zeros_like(bias), atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 8)])
@torch.inference_mode()
def test_a_convolution_before_the_doubling_is_the_one_after_it(size: tuple[int, int]) -> None:
    x, weight, bias = noise(2, 5, *size), noise(7, 5, 3, 3), noise(7)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = torch.nn.functional.conv2d(doubled, weight, bias, padding=1)
    output = DoubledConv((weight.double(), bias.double()), torch.float32)(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_the_graph_does_not_change_the_network() -> None:
    net = small_srflow()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    SrflowGraph(net, torch.float16)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
