import pytest
import torch
from torch.nn import functional as F

from flowsr_lp import UNet, prior_from_spec
from tests import stand_in

SPECS = [
    {"name": "unet", "args": {"in_chans": 27, "depth": 3, "dim": 8}},
    {"name": "edsr-baseline-latent", "args": {"in_chans": 27, "n_resblocks": 2, "dim": 8}},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 15])
@pytest.mark.parametrize("cols", [1, 11])
@torch.inference_mode()
def test_a_latent_of_any_size_gives_one_of_that_size(
    spec: dict[str, object], rows: int, cols: int
) -> None:
    prior = stand_in.fill(prior_from_spec(spec)).eval()
    latent = prior(torch.zeros(2, 27, rows, cols), stand_in.tensor(5, 4).expand(2, -1, -1, -1))
    assert latent.shape == (2, 27, rows, cols)
    assert latent.isfinite().all()


@torch.inference_mode()
def test_a_latent_that_is_too_small_is_padded_with_zero_features() -> None:
    prior = prior_from_spec(SPECS[0])
    assert isinstance(prior, UNet)
    stand_in.fill(prior).eval()
    z, x = torch.ones(1, 27, 3, 5), stand_in.tensor(3, 5)
    small = prior(z, x)
    padded = F.pad(prior.embed(z, x), (0, 3, 0, 5))
    prior.embed = lambda z, x: padded  # type: ignore[method-assign]
    assert torch.equal(small, prior(torch.empty(1, 27, 8, 8), x)[..., :3, :5])
