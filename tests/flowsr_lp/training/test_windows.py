"""Training as published: places of windows, losses equal to those of whole crops, learning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowsr_lp import LinfLP, linf_from_spec, prior_from_spec
from flowsr_lp.linf.model import low_frequency_residual, resize
from flowsr_lp.linf.prior import UNet
from flowsr_lp.training.loop import Settings, train
from flowsr_lp.training.windows import WindowCrops, WindowFlowLoss, WindowPriorLoss
from tests import stand_in

ARGS: dict[str, Any] = {
    "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}},
    "flow_layers": 2,
    "num_layer": 1,
    "hidden_dim": 8,
    "patch_size": 3,
}
SIDE = 12
# Float32 sums of another order.
CLOSE = 2e-5


class Difference(nn.Module):
    """Stands in for the perceptual loss: no weights to load."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean()


class Recorder:
    """Remembers the losses; interrupts the run at a step."""

    def __init__(self, interrupt_at: int = 0) -> None:
        self.losses: list[float] = []
        self.interrupt_at = interrupt_at

    def __call__(self, step: int, steps: int, figures: dict[str, float]) -> None:
        self.losses.append(next(iter(figures.values())))
        if step == self.interrupt_at:
            raise KeyboardInterrupt


def crops(scales: tuple[float, float] = (1.0, 4.0), batch: int = 2) -> WindowCrops:
    pictures = [stand_in.picture(60, 60, salt) for salt in "abc"]
    return WindowCrops(pictures, batch, SIDE, scales, 5, patch=3)


def network() -> LinfLP:
    torch.manual_seed(0)
    linf = linf_from_spec({"name": "linf-patch", "args": ARGS})
    return LinfLP(linf, prior_from_spec({"name": "unet", "args": {"depth": 1, "dim": 8}}))


def prior_loss() -> WindowPriorLoss:
    return WindowPriorLoss(network(), Difference())


def test_every_picture_of_a_batch_has_its_own_scale_and_window() -> None:
    low, high, places = crops(batch=40).batch_at(0)
    assert low.shape == high.shape == (40, 3, SIDE, SIDE)
    assert places.shape == (40, 3)
    sides, corners = places[:, 0], places[:, 1:]
    assert len(set(sides.tolist())) > 10
    assert len(set(corners.flatten().tolist())) > 5
    assert (corners % 3 == 0).all()
    assert (corners + SIDE <= sides[:, None]).all()


def test_at_scale_one_window_and_low_resolution_are_the_same() -> None:
    low, high, places = crops((1.0, 1.0)).batch_at(3)
    assert torch.equal(low, high)
    assert places.tolist() == [[SIDE, 0, 0]] * 2


def test_the_likelihood_of_windows_is_that_of_the_same_patches_of_the_whole() -> None:
    linf = network().linf
    low, high, places = crops().batch_at(1)
    torch.manual_seed(3)
    got = WindowFlowLoss(linf)(low, high, places)[0]
    torch.manual_seed(3)
    noise = (torch.rand_like(high) - 0.5) * (2 / 255)
    likelihoods = []
    for i, (side, top, left) in enumerate(places.tolist()):
        x, size = (low[i : i + 1] - 0.5) / 0.5, (side, side)
        whole = torch.zeros(1, 3, side, side)
        cut = (..., slice(top, top + SIDE), slice(left, left + SIDE))
        window = (high[i : i + 1] - 0.5) / 0.5 - resize(x, size)[cut]
        whole[cut] = window + noise[i : i + 1]
        each = linf.log_likelihood(whole, linf.condition(x, size, "extend"))
        grid = each.view(1, -(-side // 3), -1)
        rows = slice(top // 3, (top + SIDE) // 3), slice(left // 3, (left + SIDE) // 3)
        likelihoods.append(grid[:, rows[0], rows[1]].flatten())
    torch.testing.assert_close(got, -torch.cat(likelihoods).mean() / 27, atol=CLOSE, rtol=CLOSE)


def test_the_output_of_a_window_that_is_the_whole_is_that_of_inference() -> None:
    model = network()
    loss = WindowPriorLoss(model, Difference())
    model.eval()
    low, high, places = crops((1.0, 1.0)).batch_at(0)
    output = model(low, (SIDE, SIDE)).output
    torch.testing.assert_close(
        loss(low, high, places)[0], Difference()(output, high), atol=CLOSE, rtol=CLOSE
    )


def test_the_prior_sees_the_pictures_features_where_the_window_is() -> None:
    loss, low = prior_loss(), stand_in.tensor(SIDE, SIDE)
    x = (low - 0.5) / 0.5
    seen: list[Tensor] = []
    assert isinstance(loss.prior, UNet)
    loss.prior.inc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    linf, size = loss.linf, (36, 36)
    whole = linf.encode(low_frequency_residual(x, size), linf.condition(x, size, "extend"))
    loss.prior(whole, x)
    loss(low, low, torch.tensor([[36, 12, 24]]))
    # The picture's half of the channels; the latent's own half sees the window's edge.
    torch.testing.assert_close(
        seen[1][:, 4:], seen[0][:, 4:, 4:8, 8:12], atol=CLOSE, rtol=CLOSE
    )


def test_the_published_flow_lowers_its_loss(tmp_path: Path) -> None:
    seen = Recorder()
    settings = Settings(30, 1e-2, 0.0, 30, 3, (0.2, 0.4, 0.6, 0.8))
    train(WindowFlowLoss(network().linf), crops(), settings, tmp_path, seen)
    assert sum(seen.losses[-5:]) / 5 < sum(seen.losses[:5]) / 5 - 0.1


def test_the_published_prior_lowers_its_loss(tmp_path: Path) -> None:
    seen = Recorder()
    settings = Settings(30, 1e-2, 0.0, 30, 3, (0.2, 0.4, 0.6, 0.8))
    train(prior_loss(), crops(), settings, tmp_path, seen)
    assert sum(seen.losses[-5:]) < 0.9 * sum(seen.losses[:5])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_on_windows_equals_an_uninterrupted_one(
    tmp_path: Path, workers: int
) -> None:
    settings = Settings(4, 1e-3, 0.0, 2, 3, (0.5,))
    whole = train(prior_loss(), crops(), settings, tmp_path / "whole", Recorder())
    with pytest.raises(KeyboardInterrupt):
        train(prior_loss(), crops(), settings, tmp_path / "parts", Recorder(3), workers=workers)
    seen = Recorder()
    parts = train(prior_loss(), crops(), settings, tmp_path / "parts", seen, workers=workers)
    assert len(seen.losses) == 2
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
