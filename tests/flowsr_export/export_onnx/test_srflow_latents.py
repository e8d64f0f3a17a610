"""SRFlow's graphs of latents equal the network; encoding and decoding give the picture back."""

import json
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flowsr_export.deployment.families import deployment_of
from flowsr_export.export_onnx.latents import exported_latents
from flowsr_export.export_onnx.model import opened
from flowsr_export.graph.srflow.latents import SrflowEncodeGraph, SrflowSampleGraph
from flowsr_export.graph.srflow.network import SrflowGraph
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.onnx_graph.lint import lint
from flowsr_lp import SrflowLP
from flowsr_lp.srflow.model import interpolate, pad_to_even
from flowsr_runtime import Window
from tests.flowsr_export.networks import small_srflow, small_srflow_model
from tests.stand_in import noise, srflow_network, tensor

GOLDEN = Path(__file__).parents[2] / "golden" / "srflow"

NETWORKS = {
    "prior": small_srflow(),
    "eight": srflow_network(small_srflow_model(scale=8, L=4), None),
}
SIZES = [(2, 2), (4, 10), (18, 8)]
# Sums in another order than PyTorch's, through the flow and its inverse; see the golden files.
TOLERANCE = 5e-5
# Some 150 maps in float32, there and back; see `SrflowFlow`, whose values are float64.
ROUND_TRIP = 6e-4


@cache
def graphs(name: str) -> dict[str, bytes]:
    """Export the graphs of a network, once for all tests."""
    models = exported_latents(deployment_of(NETWORKS[name]))
    assert [lint(model, linf=False) for model in models.values()] == [[]] * len(models)
    return {key: model.SerializeToString() for key, model in models.items()}


def run(name: str, graph: str, feeds: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    with closing(opened(graphs(name)[graph], graph)) as session:
        return session.outputs(feeds)


def pair(net: SrflowLP, lr: tuple[int, int]) -> dict[str, NDArray[np.float32]]:
    """Return pictures and their low-resolution images, two of each."""
    scale = net.srflow.scale
    size = scale * lr[0], scale * lr[1]
    return {
        "input": sample_pictures(Case(lr, lr, 2)),
        "target": sample_pictures(Case(size, size, 2)),
    }


@pytest.mark.parametrize("lr", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_latents_and_density_equal_those_of_the_network(name: str, lr: tuple[int, int]) -> None:
    srflow, feeds = NETWORKS[name].srflow, pair(NETWORKS[name], lr)
    outputs = run(name, "encode", feeds)
    density = outputs.pop("log_likelihood")
    u, target = srflow.condition(torch.from_numpy(feeds["input"])), feeds["target"]
    expected = srflow.encode(torch.from_numpy(target), u)
    assert [*outputs] == [f"latent{i}" for i in range(len(expected))]
    for found, latent in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(found, latent.numpy(), atol=TOLERANCE)
    coarsest = density.shape[2:]
    assert coarsest == expected[-1].shape[2:]
    total = srflow.log_likelihood(torch.from_numpy(target), u).numpy()
    np.testing.assert_allclose(density.sum(axis=(1, 2, 3)), total, rtol=TOLERANCE)


@pytest.mark.parametrize("lr", SIZES)
def test_an_encoded_picture_decodes_to_itself(lr: tuple[int, int]) -> None:
    feeds = pair(NETWORKS["prior"], lr)
    coded = run("prior", "encode", feeds)
    del coded["log_likelihood"]
    window = Window.whole(lr, (4 * lr[0], 4 * lr[1]))
    given = {"prior_weight": np.zeros(1, np.float32), "geometry": window.geometry()}
    decoded = run("prior", "sample", {"input": feeds["input"], **coded, **given})
    np.testing.assert_allclose(decoded["output"], feeds["target"], atol=TOLERANCE)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@torch.inference_mode()
def test_a_share_of_the_prior_plus_noise_equals_the_network(weight: float) -> None:
    net, lr = NETWORKS["prior"], (4, 10)
    rgb = tensor(*lr)
    drawn = [noise(1, *shape) for shape in net.latent_sizes(lr)]
    mixed = [weight * z + n for z, n in zip(net(rgb).latents, drawn, strict=True)]
    feeds = {f"latent{i}": n.numpy() for i, n in enumerate(drawn)}
    feeds["prior_weight"] = np.full(1, weight, np.float32)
    feeds["geometry"] = Window.whole(lr, (16, 40)).geometry()
    output = run("prior", "sample", {"input": rgb.numpy(), **feeds})["output"]
    np.testing.assert_allclose(output, net(rgb, mixed).output.numpy(), atol=TOLERANCE)


@torch.inference_mode()
def test_each_cell_has_its_own_share_of_the_density() -> None:
    net = srflow_network(small_srflow_model(nb=1, blocks=[0]), None)
    graph = SrflowEncodeGraph(SrflowGraph(net), net.srflow)
    tile, low = tensor(8, 8), tensor(2, 2)
    period = low.repeat(1, 1, 40, 40), tile.repeat(1, 1, 40, 40)
    *_, shares = graph(*period)
    # Away from the borders every cell sees the same pictures.
    inner = shares[..., 15:25, 15:25]
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner), rtol=0, atol=1e-3)
    changed = period[1].clone()
    changed[..., 160:168, 160:168] = 0.5
    *_, others = graph(period[0], changed)
    apart = (others - shares).abs()[0, 0]
    assert apart.argmax() == 20 * 40 + 20
    assert apart[:10].max() < 1e-3


def test_a_network_without_a_prior_has_no_graph_to_mix() -> None:
    assert [*graphs("eight")] == ["encode"]


@torch.inference_mode()
def test_the_full_network_meets_the_golden_file_and_decodes_to_its_picture() -> None:
    arrays = dict(np.load(GOLDEN / "srflow_x4_odd.npz"))
    meta = json.loads(str(arrays["meta"]))
    args = {key: meta[key] for key in ("nb", "K", "L", "blocks")}
    spec = {"name": "srflow", "args": {"scale": 4, **args}}
    net = srflow_network(spec, {"name": "unet", "args": {}}, meta["salt"])
    height, width = meta["lr"]
    rgb = pad_to_even(tensor(height, width, meta["salt"]))
    graph, target = SrflowGraph(net), interpolate(rgb, 4)
    *latents, density = SrflowEncodeGraph(graph, net.srflow)(rgb, target)
    for index, latent in enumerate(latents):
        expected = arrays[f"eps{index}"]
        atol = TOLERANCE * np.abs(expected).max()
        np.testing.assert_allclose(latent.numpy(), expected, rtol=0, atol=atol)
    total = net.srflow.log_likelihood(target, net.srflow.condition(rgb))
    torch.testing.assert_close(density.sum((1, 2, 3)), total, rtol=TOLERANCE, atol=0)
    lr, size = ((x.shape[2], x.shape[3]) for x in (rgb, target))
    window = Window.whole(lr, size)
    geometry, zero = torch.from_numpy(window.geometry()), torch.zeros(1)
    back = SrflowSampleGraph(graph)(rgb, geometry, zero, *latents)
    torch.testing.assert_close(back, target, rtol=0, atol=ROUND_TRIP)
