from typing import Any

import pytest
import torch

from flowsr_lp import SrflowPrior, srflow_prior_from_spec
from flowsr_lp.linf.prior import pass_levels
from flowsr_runtime.errors import CheckpointError
from tests import stand_in

SPEC: dict[str, Any] = {"name": "unet", "args": {"in_chans": [6, 12], "depth": 2, "dim": 4}}
# Two float32 orders of the same sums.
ROUNDING = 1e-5


def prior() -> SrflowPrior:
    built = stand_in.fill(srflow_prior_from_spec(SPEC)).eval()
    assert isinstance(built, SrflowPrior)
    return built


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
@pytest.mark.parametrize("cols", [1, 5])
@torch.inference_mode()
def test_latents_of_any_size_give_ones_of_that_size(rows: int, cols: int) -> None:
    sizes = [(2, 6, 4 * rows, 4 * cols), (2, 12, rows, cols)]
    outs = prior()([stand_in.noise(*size) for size in sizes])
    assert [tuple(out.shape) for out in outs] == sizes
    assert all(out.isfinite().all() for out in outs)


@torch.inference_mode()
def test_neither_mean_nor_deviation_of_a_position_matters() -> None:
    built = prior()
    latents = [stand_in.noise(1, 6, 8, 8), stand_in.noise(1, 12, 2, 2)]
    gain = 1 + stand_in.noise(1, 1, 2, 2).abs()
    changed = [3 * latents[0] + 2, gain * latents[1] - gain]
    for got, wanted in zip(built(changed), built(latents), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=ROUNDING)


@torch.inference_mode()
def test_a_position_whose_channels_agree_is_all_zero() -> None:
    built = prior()
    flat = [torch.full((1, 6, 8, 8), 0.5), torch.full((1, 12, 2, 2), -2.0)]
    zero = [torch.zeros_like(latent) for latent in flat]
    assert all(torch.equal(a, b) for a, b in zip(built(flat), built(zero), strict=True))


@torch.inference_mode()
def test_each_latent_passes_its_own_branch() -> None:
    built = prior()
    latents = [stand_in.noise(1, 6, 8, 8), stand_in.noise(1, 12, 2, 2)]
    for index, latent in enumerate(latents):
        deviation, mean = torch.std_mean(latent, dim=1, keepdim=True)
        branch = built.branch(index)
        wanted = pass_levels(branch.input_proj((latent - mean) / deviation), *branch[1:])
        got = built(latents)[index]
        torch.testing.assert_close(got, wanted, rtol=0, atol=ROUNDING)


def test_the_published_sizes_are_the_default() -> None:
    built = srflow_prior_from_spec({"name": "unet", "args": {"bilinear": True}})
    assert built.in_chans == (6, 96)
    assert built.reduction == 8
    assert built.branch(1).input_proj.conv1.weight.shape == (64, 96, 3, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "edsr-baseline-latent"}, "of an SRFlow model must be unet, got 'edsr-base"),
        ({"name": "unet", "args": {"bogus": 1}}, "prior unet has no argument bogus"),
        ({"name": "unet", "args": {"bilinear": False}}, "prior unet must be bilinear"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        srflow_prior_from_spec(spec)
