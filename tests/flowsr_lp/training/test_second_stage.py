"""LINF's second stage: its losses, their own steps, and resumed runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowsr_lp import linf_from_spec
from flowsr_lp.training.crops import Crops
from flowsr_lp.training.linf import whole_target
from flowsr_lp.training.loop import Alternating, Settings, train
from flowsr_lp.training.second_stage import LikelihoodLoss, OutputLoss, SecondStage
from flowsr_lp.training.windows import WindowCrops
from flowsr_runtime.errors import UsageError
from tests import stand_in
from tests.flowsr_lp.training.doubles import MODEL, Blur, Recorder

STAGE = SecondStage(Path("vgg.pth"), perceptual_weight=0.5)
SETTINGS = Settings(6, 1e-3, 0.0, 2, 3, (0.2, 0.4, 0.6, 0.8))
CLOSE = 1e-6  # float32 sums in another order


def crops(*, windows: bool = False) -> Crops:
    pictures = [stand_in.picture(40, 40, salt) for salt in "abc"]
    if windows:
        return WindowCrops(pictures, 2, 12, (1.0, 3.0), patch=3)
    return Crops(pictures, 2, 8, (1.0, 3.0))


def objective(stage: SecondStage = STAGE) -> Alternating:
    torch.manual_seed(0)
    linf = linf_from_spec(MODEL)
    output = OutputLoss(linf, stage, Blur() if stage.perceptual_weight else None)
    return Alternating(LikelihoodLoss(linf, stage.likelihood_weight), output)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_likelihood_is_weighted_by_the_patch() -> None:
    linf = objective().parts[0].trained
    low, high = crops().batch_at(0)
    torch.manual_seed(1)
    loss, figures = LikelihoodLoss(linf, 5e-4)(low, high)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(5e-4 * 27 * figures["nll"], rel=1e-5)


def test_the_output_loss_is_of_the_mode_and_of_a_sample() -> None:
    linf = linf_from_spec(MODEL)
    low, high = crops().batch_at(0)
    torch.manual_seed(1)
    loss, figures = OutputLoss(linf, STAGE, Blur())(low, high)
    torch.manual_seed(1)
    target = whole_target(linf, low, high)
    c, size = target.condition, (high.shape[-2], high.shape[-1])
    noise = torch.randn(2, 27, c.rows, c.cols)
    sample = (linf.decode(0.8 * noise, c, size) + target.base) * 0.5 + 0.5
    pixel = F.l1_loss(linf.decode(0 * noise, c, size), target.residual)
    expected = pixel + 0.5 * Blur()(sample, high)
    torch.testing.assert_close(loss, expected, atol=CLOSE, rtol=CLOSE)
    assert figures["l1"] == pytest.approx(pixel.item(), abs=CLOSE)


def test_each_loss_has_its_own_step_of_the_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *arguments: Any) -> Any:
        steps.append(1)
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    train(objective(), crops(), SETTINGS, tmp_path, Recorder())
    assert len(steps) == 2 * SETTINGS.steps


@pytest.mark.parametrize("windows", [False, True])
def test_the_second_stage_lowers_its_losses(tmp_path: Path, windows: bool) -> None:
    found: list[dict[str, float]] = []
    settings = replace(SETTINGS, steps=150, learning_rate=2e-3, halve_at=(0.8,))
    train(
        objective(),
        crops(windows=windows),
        settings,
        tmp_path,
        lambda _step, _steps, figures: found.append(figures),
    )
    for name in ("nll", "l1", "perceptual"):
        values = [figures[name] for figures in found]
        assert sum(values[-20:]) < sum(values[:20]) - 0.02 * abs(sum(values[:20])), name


@pytest.mark.parametrize("windows", [False, True])
def test_a_resumed_second_stage_equals_an_uninterrupted_one(
    tmp_path: Path, windows: bool
) -> None:
    source = crops(windows=windows)
    whole = train(objective(), source, SETTINGS, tmp_path / "whole", Recorder())
    with pytest.raises(KeyboardInterrupt):
        train(objective(), source, SETTINGS, tmp_path / "parts", Recorder(interrupt_at=3))
    seen = Recorder()
    parts = train(objective(), source, SETTINGS, tmp_path / "parts", seen)
    assert seen.steps == [3, 4, 5, 6]
    assert same(whole, parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vgg": None}, r"vgg must be given for perceptual_weight 0\.5"),
        ({"pixel_weight": 0.0, "perceptual_weight": 0.0}, "must be above 0 in the second sta"),
        ({"likelihood_weight": 0.0}, "likelihood_weight.* must be above 0 in the second sta"),
        ({"pixel_weight": -1.0}, "weights must be finite and at least 0, got -1"),
        ({"sample_temperature": float("nan")}, "at least 0, got nan"),
    ],
)
def test_a_second_stage_that_makes_no_sense_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        replace(STAGE, **changes)
