from typing import Any

import pytest
import torch
from torch import Tensor

from flowsr_export.deployment.families import deployment_of
from flowsr_export.graph.linf.network import LinfFixedGraph, LinfGraph
from flowsr_export.parity.half_emulation import HalfPrecisionEmulator
from flowsr_lp import LinfLP
from flowsr_runtime import Window
from flowsr_runtime.geometry import Extent, Halo, exact_scale
from tests.flowsr_export.networks import small, small_model, small_prior
from tests.stand_in import network, tensor

# The graph and the reference order their float32 sums differently, and the reference
# computes sampling positions in float32.
SAME = 2e-5

SIZES = [
    ((20, 24), (80, 96)),
    ((17, 23), (46, 83)),
    ((1, 9), (4, 30)),
    ((5, 1), (7, 1)),
    ((12, 13), (144, 156)),
    ((1, 1), (1, 1)),
]


def run(graph: LinfGraph, rgb: Tensor, window: Window, latent: Tensor | None = None) -> Tensor:
    rows, cols = window.rows, window.columns
    tile = rgb[:, :, rows.lr_begin : rows.lr_end, cols.lr_begin : cols.lr_end]
    with torch.inference_mode():
        output: Tensor = graph(tile, torch.from_numpy(window.geometry()), latent)
    return output


def reference(net: LinfLP, rgb: Tensor, size: tuple[int, int]) -> Tensor:
    with torch.inference_mode():
        output: Tensor = net(rgb, size).output
    return output


@pytest.mark.parametrize(("lr", "size"), SIZES)
def test_the_graph_is_the_model(lr: tuple[int, int], size: tuple[int, int]) -> None:
    net = small()
    rgb = torch.cat((tensor(*lr), tensor(*lr, "another")))
    output = run(LinfGraph(net), rgb, Window.whole(lr, size))
    torch.testing.assert_close(output, reference(net, rgb, size), rtol=0, atol=SAME)


ENCODERS: dict[str, dict[str, Any]] = {
    "edsr": {"n_resblocks": 2, "n_feats": 8, "res_scale": 0.1},
    "rdn": {"G0": 4, "RDNconfig": "A"},
    "rrdb": {"nf": 8, "nb": 1, "gc": 4},
    "swinir": {"embed_dim": 8, "depths": [2, 1], "num_heads": 2, "num_feat": 8},
}
SWINIR = {"name": "swinir", "args": ENCODERS["swinir"]}


@pytest.mark.parametrize("name", ENCODERS)
def test_the_graph_is_the_model_with_other_encoders(name: str) -> None:
    net = small(encoder_spec={"name": name, "args": ENCODERS[name]})
    rgb = tensor(11, 14)
    output = run(LinfGraph(net), rgb, Window.whole((11, 14), (29, 51)))
    torch.testing.assert_close(output, reference(net, rgb, (29, 51)), rtol=0, atol=SAME)


def test_the_graph_is_the_model_with_the_other_prior() -> None:
    args = {"in_chans": 27, "n_resblocks": 2, "dim": 8}
    net = small({"name": "edsr-baseline-latent", "args": args})
    rgb = tensor(11, 14)
    output = run(LinfGraph(net), rgb, Window.whole((11, 14), (29, 51)))
    torch.testing.assert_close(output, reference(net, rgb, (29, 51)), rtol=0, atol=SAME)


def test_the_graph_is_the_model_for_single_pixels() -> None:
    model = small_model()
    del model["args"]["patch_size"]
    net = network({**model, "name": "linf"}, small_prior(in_chans=3))
    rgb = tensor(9, 10)
    output = run(LinfGraph(net), rgb, Window.whole((9, 10), (20, 37)))
    torch.testing.assert_close(output, reference(net, rgb, (20, 37)), rtol=0, atol=SAME)


def test_without_a_prior_the_graph_decodes_the_latent_it_is_given() -> None:
    net = network(small_model(), None)
    rgb, latent = tensor(9, 10), torch.randn(1, 27, 8, 10)
    output = run(LinfGraph(net), rgb, Window.whole((9, 10), (22, 30)), latent)
    with torch.inference_mode():
        expected = net(rgb, (22, 30), latent).output
    torch.testing.assert_close(output, expected, rtol=0, atol=SAME)


@pytest.mark.parametrize("scale", ["2", "2.7"])
def test_the_fixed_graph_is_the_model_at_its_scale(scale: str) -> None:
    net = small()
    rgb = tensor(13, 16)
    with torch.inference_mode():
        output = LinfFixedGraph(LinfGraph(net), exact_scale(scale))(rgb)
    size = (int(13 * float(scale) + 0.5), int(16 * float(scale) + 0.5))
    torch.testing.assert_close(output, reference(net, rgb, size), rtol=0, atol=SAME)


def tile(
    graph: LinfGraph, rgb: Tensor, size: tuple[int, int], halo: Halo, begin: int = 48
) -> Tensor:
    """Compute 36 rows and columns from `begin` on with a halo around them."""
    y = Extent.around(begin, begin + 36, rgb.shape[2], size[0], halo)
    x = Extent.around(begin, begin + 36, rgb.shape[3], size[1], halo)
    output = run(graph, rgb, Window(y, x))
    top, left = begin - y.out_begin, begin - x.out_begin
    return output[:, :, top : top + 36, left : left + 36]


@pytest.mark.parametrize("lr", [(1, 128), (2, 7), (8, 9), (127, 3), (64, 65)])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_graph_is_the_model_where_windows_stick_out(
    lr: tuple[int, int], scale: int
) -> None:
    net = small(encoder_spec=SWINIR)
    size = (scale * lr[0], scale * lr[1])
    rgb = torch.cat((tensor(*lr), tensor(*lr, "another")))
    output = run(LinfGraph(net), rgb, Window.whole(lr, size))
    torch.testing.assert_close(output, reference(net, rgb, size), rtol=0, atol=SAME)


@pytest.mark.parametrize("size", [(384, 400), (307, 521)])
def test_a_tile_of_windows_with_the_whole_receptive_field_is_the_whole_picture(
    size: tuple[int, int],
) -> None:
    net = small(small_prior(depth=1), encoder_spec=SWINIR)
    rgb = tensor(192, 200)
    graph = LinfGraph(net)
    whole = run(graph, rgb, Window.whole((192, 200), size))[:, :, 204:240, 204:240]
    halo = deployment_of(net).exact_halo()
    assert halo.lr_align == 24
    output = tile(graph, rgb, size, halo, 204)
    torch.testing.assert_close(output, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(240, 252), (199, 301)])
def test_a_tile_with_the_whole_receptive_field_is_the_whole_picture(
    size: tuple[int, int],
) -> None:
    net = small(small_prior(depth=1))
    rgb = tensor(60, 63)
    graph = LinfGraph(net)
    whole = run(graph, rgb, Window.whole((60, 63), size))[:, :, 48:84, 48:84]
    output = tile(graph, rgb, size, deployment_of(net).exact_halo())
    torch.testing.assert_close(output, whole, rtol=0, atol=1e-5)


def test_a_tile_without_a_halo_is_not_the_whole_picture() -> None:
    net = small(small_prior(depth=1))
    rgb = tensor(60, 63)
    graph = LinfGraph(net)
    whole = run(graph, rgb, Window.whole((60, 63), (240, 252)))[:, :, 48:84, 48:84]
    output = tile(graph, rgb, (240, 252), Halo(3, 6, 3, 0, 0))
    assert (output - whole).abs().max() > 1e-3


def test_the_graph_does_not_change_the_network() -> None:
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    LinfGraph(net, torch.float16)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def exploding() -> LinfLP:
    """A guarded network whose flow's inverse multiplies residuals."""
    net = small()
    net.linf.guard = True
    with torch.no_grad():
        net.linf.imnet.last._weight.mul_(0.02)
    return net


@pytest.mark.parametrize(("lr", "size"), SIZES)
def test_the_guarded_graph_is_the_guarded_model(
    lr: tuple[int, int], size: tuple[int, int]
) -> None:
    net, rgb = exploding(), tensor(*lr)
    output = run(LinfGraph(net), rgb, Window.whole(lr, size))
    torch.testing.assert_close(output, reference(net, rgb, size), rtol=0, atol=10 * SAME)
    assert -0.1 - 1e-5 <= output.min().item() <= output.max().item() <= 1.1 + 1e-5


@pytest.mark.parametrize("factor", [0.05, 1e-3])
def test_a_patch_that_explodes_in_half_stays_finite(factor: float) -> None:
    net, rgb = exploding(), tensor(12, 13)
    with torch.no_grad():
        for linear in net.linf.imnet.linears:
            linear.get_parameter("_weight").mul_(factor)
    emulator = HalfPrecisionEmulator(deployment_of(net), "fp16", None)
    geometry = Window.whole((12, 13), (48, 52)).geometry()
    output = emulator.run({"input": rgb.numpy(), "geometry": geometry})
    assert -0.1 - 1e-3 <= output.min() <= output.max() <= 1.1 + 1e-3


def test_without_the_guard_such_values_leave_the_range() -> None:
    net, rgb = exploding(), tensor(20, 24)
    net.linf.guard = False
    assert reference(net, rgb, (80, 96)).abs().max().item() > 1.5
