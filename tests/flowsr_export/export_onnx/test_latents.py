"""The graphs of latents equal the network; encoding and decoding give the picture back."""

from contextlib import closing
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from flowsr_export.deployment.families import deployment_of
from flowsr_export.export_onnx.latents import check_latents, exported_latents
from flowsr_export.export_onnx.manifest import Request
from flowsr_export.export_onnx.model import opened
from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_export.onnx_graph.lint import lint
from flowsr_lp import LinfLP
from flowsr_lp.linf.model import resize
from flowsr_runtime.errors import UsageError
from flowsr_runtime.geometry import Extent, Window
from tests.flowsr_export.networks import small, small_model, small_srflow
from tests.stand_in import network

LINF = small()
SAMPLED = network(small_model(), None)
NETWORKS = {"prior": LINF, "sampled": SAMPLED}
CASES = [Case((9, 14), (13, 22)), Case((1, 5), (3, 17)), Case((16, 3), (64, 12), 2)]
# Sums in another order than PyTorch's, through the flow and its inverse.
TOLERANCE = 2e-5


@cache
def graphs(name: str) -> dict[str, bytes]:
    """Export the graphs of a network, once for all tests."""
    models = exported_latents(deployment_of(NETWORKS[name]))
    assert [lint(model) for model in models.values()] == [[]] * len(models)
    return {key: model.SerializeToString() for key, model in models.items()}


def run(name: str, graph: str, feeds: dict[str, Any]) -> dict[str, Any]:
    with closing(opened(graphs(name)[graph], graph)) as session:
        return session.outputs(feeds)


def pair(net: LinfLP, case: Case) -> dict[str, Any]:
    """Return the inputs of a picture and its low-resolution image."""
    feeds = deployment_of(net).feeds(case, None)
    feeds.pop("latent", None)
    return {**feeds, "target": sample_pictures(Case(case.size, case.size, case.batch))}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_latent_and_density_equal_those_of_the_network(name: str, case: Case) -> None:
    net = NETWORKS[name]
    feeds = pair(net, case)
    outputs = run(name, "encode", feeds)
    x = torch.from_numpy(feeds["input"]) * 2 - 1
    residual = torch.from_numpy(feeds["target"]) * 2 - 1 - resize(x, case.size)
    with torch.no_grad():
        c = net.linf.condition(x, case.size, "extend")
        latent, density = net.linf.encode(residual, c), net.linf.log_likelihood(residual, c)
    np.testing.assert_allclose(outputs["latent"], latent.numpy(), atol=TOLERANCE)
    found = outputs["log_likelihood"].reshape(case.batch, -1)
    np.testing.assert_allclose(found, density.numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_encoded_picture_decodes_to_itself(case: Case) -> None:
    feeds = pair(LINF, case)
    target = feeds["target"]
    latent = run("prior", "encode", feeds)["latent"]
    weight = np.zeros(1, np.float32)
    del feeds["target"]
    decoded = run("prior", "sample", {**feeds, "latent": latent, "prior_weight": weight})
    np.testing.assert_allclose(decoded["output"], target, atol=TOLERANCE)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_share_of_the_prior_plus_noise_equals_the_network(weight: float) -> None:
    case = CASES[0]
    feeds = deployment_of(LINF).feeds(case, None)
    rgb = torch.from_numpy(feeds["input"])
    with torch.no_grad():
        prior = LINF(rgb, case.size).latent
        noise = torch.randn(prior.shape, generator=torch.Generator().manual_seed(1))
        expected = LINF(rgb, case.size, weight * prior + noise).output.numpy()
    inputs = {"latent": noise.numpy(), "prior_weight": np.full(1, weight, np.float32)}
    output = run("prior", "sample", {**feeds, **inputs})["output"]
    np.testing.assert_allclose(output, expected, atol=TOLERANCE)


def test_a_tile_of_a_sampled_image_equals_that_part_of_it() -> None:
    deployment, case = deployment_of(LINF), Case((60, 8), (120, 16))
    feeds = deployment.feeds(case, None)
    noise = np.random.default_rng(0).standard_normal((1, 27, 40, 6)).astype(np.float32)
    weight = {"prior_weight": np.full(1, 0.5, np.float32)}
    whole = run("prior", "sample", {**feeds, **weight, "latent": noise})["output"]
    rows = Extent.around(0, 24, 60, 120, deployment.exact_halo())
    tile = {
        "input": np.ascontiguousarray(feeds["input"][:, :, : rows.lr_end]),
        "geometry": Window(rows, Extent.whole(8, 16)).geometry(),
        "latent": np.ascontiguousarray(noise[:, :, : -(-rows.out_size // 3)]),
    }
    part = run("prior", "sample", {**tile, **weight})["output"]
    np.testing.assert_allclose(part[:, :, :24], whole[:, :, :24], atol=TOLERANCE)


def test_a_network_without_a_prior_has_no_graph_to_mix() -> None:
    assert [*graphs("sampled")] == ["encode"]


REFUSED: list[tuple[Any, Request, str]] = [
    (small_srflow(), Request(scale=Fraction(4)), "scale 4"),
    (LINF, Request(scale=Fraction(4)), "scale 4"),
    (LINF, Request(io="uint8"), "io uint8"),
    (LINF, Request("fp16"), "fp16"),
]


@pytest.mark.parametrize(("net", "asked", "got"), REFUSED)
def test_a_graph_without_latents_is_refused(net: Any, asked: Request, got: str) -> None:
    with pytest.raises(UsageError, match=f"latents must be of a graph of tiles .*, got {got}"):
        check_latents(deployment_of(net), asked)
