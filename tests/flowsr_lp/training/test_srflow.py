from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowsr_lp import SrflowLP, srflow_from_spec, srflow_prior_from_spec
from flowsr_lp.srflow.coupling import ActNorm
from flowsr_lp.training.crops import Crops
from flowsr_lp.training.loop import Settings, train
from flowsr_lp.training.srflow import SrflowFlowLoss, SrflowPriorLoss, fit_norms
from flowsr_runtime.errors import UsageError
from tests import stand_in

ARGS: dict[str, Any] = {"scale": 4, "nb": 1, "K": 1, "L": 3, "blocks": [0]}
MODEL = {"name": "srflow", "args": ARGS | {"nf": 4, "gc": 2, "hidden": 4}}
PRIOR = {"name": "unet", "args": {"in_chans": [6, 96], "depth": 1, "dim": 4}}
SETTINGS = Settings(steps=4, learning_rate=1e-3, ema_decay=0.9, save_every=2, seed=3)
# Of a mean, in float32; of a deviation, to which a millionth is added before the division.
ROUNDING = 1e-4
NEARLY = 1e-3


class Blur(nn.Module):
    """Stands in for the perceptual loss: no weights to load."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(output - target, 2).abs().mean()


class Recorder:
    """Remembers the losses; interrupts the run at a step."""

    def __init__(self, interrupt_at: int = 0) -> None:
        self.losses: list[float] = []
        self.interrupt_at = interrupt_at

    def __call__(self, step: int, steps: int, figures: dict[str, float]) -> None:
        self.losses.append(next(iter(figures.values())))
        if step == self.interrupt_at:
            raise KeyboardInterrupt


def crops() -> Crops:
    return Crops([stand_in.picture(40, 40, salt) for salt in "abc"], 2, 4, (4.0, 4.0))


def flow_loss(pixel_weight: float = 0.0) -> SrflowFlowLoss:
    torch.manual_seed(0)
    srflow = srflow_from_spec(MODEL)
    fit_norms(srflow, *crops().batch_at(0))
    return SrflowFlowLoss(srflow, pixel_weight)


def prior_loss(**weights: float) -> SrflowPriorLoss:
    network = SrflowLP(flow_loss().srflow, srflow_prior_from_spec(PRIOR))
    return SrflowPriorLoss(network, Blur(), **weights)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_the_flow_lowers_its_loss(tmp_path: Path) -> None:
    seen = Recorder()
    settings = replace(SETTINGS, steps=40, learning_rate=1e-2)
    train(flow_loss(pixel_weight=1.0), crops(), settings, tmp_path, seen)
    assert sum(seen.losses[-5:]) / 5 < sum(seen.losses[:5]) / 5 - 0.3


def test_the_published_noise_lowers_the_loss_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    srflow, seen = srflow_from_spec(MODEL), Recorder()
    fit_norms(srflow, *crops().batch_at(0), quant=32)
    settings = Settings(40, 1e-2, 0.0, 40, 3, (0.5, 0.75, 0.9, 0.95))
    train(SrflowFlowLoss(srflow, quant=32), crops(), settings, tmp_path, seen)
    assert sum(seen.losses[-5:]) / 5 < sum(seen.losses[:5]) / 5 - 0.2


def test_the_noise_spans_the_stated_share_of_the_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    low, high = crops().batch_at(0)
    srflow = flow_loss().srflow
    seen: list[Tensor] = []
    density = srflow.log_likelihood

    def recorded(rgb: Tensor, u: list[Tensor]) -> Tensor:
        seen.append(rgb)
        return density(rgb, u)

    monkeypatch.setattr(srflow, "log_likelihood", recorded)
    SrflowFlowLoss(srflow, quant=32)(low, high)
    assert (seen[0] - high).abs().max().item() == pytest.approx(1 / 64, rel=0.02)


def test_training_the_prior_lowers_its_loss(tmp_path: Path) -> None:
    seen = Recorder()
    settings = replace(SETTINGS, steps=40, learning_rate=3e-2)
    train(prior_loss(), crops(), settings, tmp_path, seen)
    assert sum(seen.losses[-5:]) < 0.93 * sum(seen.losses[:5])


def test_training_the_prior_leaves_the_flow_alone(tmp_path: Path) -> None:
    loss = prior_loss(latent_weight=1.0)
    before = {name: tensor.clone() for name, tensor in loss.srflow.state_dict().items()}
    train(loss, crops(), SETTINGS, tmp_path, Recorder())
    assert same(loss.srflow.state_dict(), before)


@pytest.mark.parametrize("make", [flow_loss, prior_loss])
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, make: Callable[[], SrflowFlowLoss | SrflowPriorLoss]
) -> None:
    whole = train(make(), crops(), SETTINGS, tmp_path / "whole", Recorder())
    with pytest.raises(KeyboardInterrupt):
        train(make(), crops(), SETTINGS, tmp_path / "parts", Recorder(interrupt_at=3))
    assert same(train(make(), crops(), SETTINGS, tmp_path / "parts", Recorder()), whole)


def test_fitted_norms_give_mean_zero_and_deviation_one() -> None:
    loss, (low, high) = flow_loss(), crops().batch_at(0)
    norms = [module for module in loss.srflow.modules() if isinstance(module, ActNorm)]
    outs: list[Tensor] = []
    for norm in norms:
        norm.register_forward_hook(lambda _, inputs, out: outs.append(out.detach()))
    torch.manual_seed(5)
    fit_norms(loss.srflow, low, high)
    outs.clear()
    torch.manual_seed(5)  # the same noise
    loss(low, high)
    assert len(outs) == len(norms) == 3 * 3 + 3 * 4
    for out in outs:
        deviation, mean = torch.std_mean(out, dim=(0, 2, 3), correction=0)
        assert mean.abs().max() < ROUNDING
        assert (deviation - 1).abs().max() < NEARLY


def test_norms_are_fitted_once() -> None:
    loss, (low, high) = flow_loss(), crops().batch_at(7)
    before = {name: tensor.clone() for name, tensor in loss.srflow.state_dict().items()}
    loss(low, high)
    assert same(loss.srflow.state_dict(), before)


def test_the_flow_loss_is_the_likelihood_of_the_noisy_picture_per_value() -> None:
    loss, (low, high) = flow_loss(), crops().batch_at(0)
    torch.manual_seed(1)
    value, figures = loss(low, high)
    torch.manual_seed(1)
    noisy = high + (torch.rand_like(high) - 0.5) / 255
    likelihood = loss.srflow.log_likelihood(noisy, loss.srflow.condition(low))
    assert torch.allclose(value, -likelihood.mean() / (3 * 16 * 16))
    assert figures == {"nll": pytest.approx(value.item())}


def test_the_flow_loss_can_hold_the_mode_to_the_picture() -> None:
    loss, (low, high) = flow_loss(pixel_weight=2.0), crops().batch_at(0)
    value, figures = loss(low, high)
    mode = SrflowLP(loss.srflow).sample(low, 0.0).output
    assert figures["l1"] == pytest.approx((mode - high).abs().mean().item(), rel=1e-5)
    assert value.item() == pytest.approx(figures["nll"] + 2 * figures["l1"], rel=1e-5)


@torch.no_grad()
def test_the_prior_loss_is_the_weighted_sum_of_its_terms() -> None:
    loss = prior_loss(perceptual_weight=1.0, latent_weight=0.5, pixel_weight=2.0)
    value, figures = loss(*crops().batch_at(0))
    wanted = figures["perceptual"] + 0.5 * figures["latent"] + 2 * figures["l1"]
    assert value.item() == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_the_prior_loss_compares_what_the_network_gives_with_the_picture() -> None:
    loss, (low, high) = prior_loss(pixel_weight=1.0, latent_weight=1.0), crops().batch_at(0)
    loss.trained.eval()
    got = SrflowLP(loss.srflow, loss.trained)(low)
    wanted = loss.srflow.encode(high, loss.srflow.condition(low))
    latent = [(a - b).abs().mean() for a, b in zip(got.latents, wanted, strict=True)]
    figures = loss(low, high)[1]
    assert figures["l1"] == pytest.approx((got.output - high).abs().mean().item(), rel=1e-5)
    assert figures["latent"] == pytest.approx(torch.stack(latent).mean().item(), rel=1e-5)


def test_latents_without_a_weight_are_not_compared() -> None:
    assert prior_loss()(*crops().batch_at(0))[1].keys() == {"perceptual", "l1"}


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="weights must be finite and at least 0, got -1"):
        flow_loss(pixel_weight=-1.0)
    with pytest.raises(UsageError, match="weights must be finite and at least 0, got -1"):
        prior_loss(latent_weight=-1.0)


def test_a_prior_loss_without_a_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="one of the loss's weights must be above 0"):
        prior_loss(perceptual_weight=0.0)
