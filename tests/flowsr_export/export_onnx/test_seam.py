from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowsr_export.deployment.families import deployment_of
from flowsr_export.export_onnx.seam import SEAM_GOAL, default_halo, seam_steps
from flowsr_export.graph.linf.network import LinfGraph
from flowsr_export.graph.receptive_field import encoder_radius, prior_radius
from flowsr_lp import LinfLP, prior_from_spec
from flowsr_lp.linf.encoder import SwinIR, encoder_from_spec
from flowsr_runtime import ParityError
from tests.flowsr_export.networks import small, small_model, small_prior
from tests.stand_in import network


class Eager:
    """Runs the deployment graph in PyTorch."""

    def __init__(self, net: LinfLP) -> None:
        self.graph = LinfGraph(net)

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in feeds.items()}
        with torch.inference_mode():
            output: NDArray[np.float32] = self.graph(**tensors).numpy()
        return output


def test_the_default_halo_keeps_the_seam_below_its_goal() -> None:
    net = small()
    seam = default_halo(deployment_of(net), Eager(net))
    exact = deployment_of(net).exact_halo()
    assert seam.steps <= SEAM_GOAL
    assert seam.halo.patches <= exact.patches
    assert seam.halo.pixels <= exact.pixels


def test_a_network_without_a_prior_needs_pixels_alone() -> None:
    net = network(small_model(), None)
    seam = default_halo(deployment_of(net), Eager(net))
    assert deployment_of(net).exact_halo().patches == seam.halo.patches == 0
    assert seam.steps <= SEAM_GOAL


class Uneven:
    """Gives tiles that are darker the further down they begin."""

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        *_, top, _, rows, cols = feeds["geometry"]
        return np.full((1, 3, rows, cols), 1 / (1 + top), np.float32)


def test_tiles_that_no_halo_makes_whole_are_refused() -> None:
    with pytest.raises(ParityError, match="within 1 step"):
        default_halo(deployment_of(small()), Uneven())


@pytest.mark.parametrize(("depth", "patches"), [(1, 17), (2, 37), (3, 77)])
def test_each_level_of_the_prior_doubles_its_reach(depth: int, patches: int) -> None:
    assert deployment_of(small(small_prior(depth=depth))).exact_halo().patches == patches


def reach(output: Tensor, column: int) -> int:
    """Return how far not-a-number has spread from a column, over all rows and channels."""
    spoilt = output.isnan().any(dim=(0, 1, 2)).nonzero().flatten()
    return int((spoilt - column).abs().max())


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "edsr-baseline", "args": {"n_resblocks": 3, "n_feats": 4}},
        {"name": "rrdb", "args": {"nf": 4, "nb": 2, "gc": 4}},
        {"name": "rdn", "args": {"G0": 4, "RDNconfig": "A"}},
    ],
    ids=lambda spec: spec["name"],
)
@torch.inference_mode()
def test_an_encoder_sees_as_far_as_is_stated(spec: dict[str, Any]) -> None:
    encoder = encoder_from_spec(spec)
    x = torch.zeros(1, 3, 1, 160)
    x[..., 0] = torch.nan
    assert reach(encoder(x), 0) == encoder_radius(encoder)


@torch.inference_mode()
def test_attention_sees_as_far_as_is_stated() -> None:
    encoder = SwinIR(embed_dim=4, depths=(2, 1), num_heads=1, num_feat=4)
    reaches = []
    for column in range(80, 88):  # each place within a window
        x = torch.zeros(1, 3, 7, 160)
        x[..., column] = torch.nan
        reaches.append(reach(encoder(x)[..., :160], column))
    assert max(reaches) == encoder_radius(encoder)


@pytest.mark.parametrize("column", range(120, 128))
@pytest.mark.parametrize("depth", [1, 2, 3])
@torch.inference_mode()
def test_a_prior_sees_no_further_than_is_stated(depth: int, column: int) -> None:
    prior = prior_from_spec({"name": "unet", "args": {"in_chans": 3, "depth": depth, "dim": 4}})
    z = torch.zeros(1, 3, 1, 240)
    z[..., column] = torch.nan
    seen = reach(prior.eval()(z, torch.zeros(1, 3, 1, 80)), column)
    assert 0.7 * prior_radius(prior) < seen <= prior_radius(prior)


def test_windows_begin_where_every_pooling_does() -> None:
    assert deployment_of(small(small_prior(depth=3))).exact_halo().align == 24


def test_a_seam_is_measured_in_eight_bit_steps_of_what_is_shown() -> None:
    a, b = np.zeros((1, 3, 2, 2), np.float32), np.zeros((1, 3, 2, 2), np.float32)
    b[0, 0, 0, 0], a[0, 0, 1, 1] = 1 / 255, -5
    assert seam_steps(a, b) == pytest.approx(1)
