"""The restated latent modules compute what the published ones compute."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowsr_export.graph.axis import Axis
from flowsr_export.graph.folding import padded_width
from flowsr_export.graph.linf.prior import PriorGraph
from flowsr_lp import prior_from_spec
from flowsr_lp.linf.prior import Prior
from tests import stand_in

# Float32 sums in another order, and sampling positions that the reference takes in float32.
SAME = 2e-5
# Eleven bits of mantissa through a dozen layers.
SAME_IN_HALF = 2e-2

UNET = {"name": "unet", "args": {"in_chans": 27, "depth": 2, "dim": 8}}
EDSR = {"name": "edsr-baseline-latent", "args": {"in_chans": 27, "n_resblocks": 1, "dim": 8}}


def filled(spec: dict[str, Any]) -> Prior:
    prior = prior_from_spec(spec)
    stand_in.fill(prior)
    return prior.eval()


def axis(lr: int, patches: int) -> Axis:
    """Return a whole axis whose last patch sticks out."""
    return Axis(lr, 3 * patches - 1, 0, 0, lr, patches, 3)


def whole_blocks(z: Tensor) -> Tensor:
    """Pad the channels of (B, D, rows, cols) with zeros as the graph's encode does."""
    return F.pad(z, (0, 0, 0, 0, 0, padded_width(z.shape[1]) - z.shape[1]))


@pytest.mark.parametrize("spec", [UNET, EDSR], ids=lambda spec: spec["name"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 9), (7, 10), (16, 13)])
@torch.inference_mode()
def test_a_whole_picture_gives_the_latent_of_the_module(
    spec: dict[str, Any], grid: tuple[int, int]
) -> None:
    prior, z, x = (
        filled(spec),
        stand_in.noise(2, 27, *grid),
        stand_in.tensor(11, 8).expand(2, -1, -1, -1),
    )
    graph = PriorGraph(prior, torch.float32)
    output = graph(whole_blocks(z), x, axis(11, grid[0]), axis(8, grid[1]))
    assert output[:, 27:].abs().sum() == 0
    torch.testing.assert_close(output[:, :27], prior(z, x), rtol=0, atol=SAME)


@torch.inference_mode()
def test_half_precision_gives_a_latent_in_half() -> None:
    prior, z, x = filled(UNET), stand_in.noise(1, 27, 7, 10), stand_in.tensor(11, 8)
    graph = PriorGraph(prior, torch.float16)
    output = graph(whole_blocks(z), x, axis(11, 7), axis(8, 10))
    assert output.dtype == torch.float16
    torch.testing.assert_close(output[:, :27].float(), prior(z, x), rtol=0, atol=SAME_IN_HALF)
