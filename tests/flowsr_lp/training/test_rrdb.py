"""Pre-training of RRDB by L1."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowsr_lp.srflow.encoder import RRDBNet
from flowsr_lp.training.crops import Crops
from flowsr_lp.training.loop import Settings, train
from flowsr_lp.training.rrdb import PixelLoss
from tests import stand_in
from tests.flowsr_lp.training.doubles import Recorder

SIZES = {"nb": 1, "nf": 8, "gc": 4}


def network(scale: int = 4) -> RRDBNet:
    torch.manual_seed(0)
    return RRDBNet(scale, **SIZES)


def crops() -> Crops:
    return Crops([stand_in.picture(40, 40, salt) for salt in "abc"], 2, 8, (4.0, 4.0))


@pytest.mark.parametrize("scale", [4, 8])
def test_the_output_has_the_scale_of_the_network(scale: int) -> None:
    assert network(scale)(torch.rand(2, 3, 5, 6)).shape == (2, 3, 5 * scale, 6 * scale)


def test_the_trunk_ends_with_the_last_blocks_output() -> None:
    net, rgb = network(), torch.rand(1, 3, 5, 6)
    last = net.RRDB_trunk(net.conv_first(rgb))
    seen: list[torch.Tensor] = []
    upconv1 = net.get_submodule("upconv1")
    upconv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(rgb)
    doubled = nn.functional.interpolate(last + net.trunk_conv(last), scale_factor=2)
    torch.testing.assert_close(seen[0], doubled)


def test_the_loss_is_the_l1() -> None:
    net = network()
    low, high = crops().batch_at(0)
    loss, figures = PixelLoss(net)(low, high)
    torch.testing.assert_close(loss, F.l1_loss(net(low), high))
    assert figures == {"l1": loss.item()}


def test_pre_training_lowers_its_loss(tmp_path: Path) -> None:
    seen = Recorder()
    train(PixelLoss(network()), crops(), Settings(100, 2e-3), tmp_path, seen)
    assert sum(seen.losses[-10:]) < 0.6 * sum(seen.losses[:10])


def test_a_resumed_pre_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    settings = Settings(6, 1e-3, 0.9, 2, 3)
    whole = train(PixelLoss(network()), crops(), settings, tmp_path / "whole", Recorder())
    with pytest.raises(KeyboardInterrupt):
        train(PixelLoss(network()), crops(), settings, tmp_path / "parts", Recorder(3))
    parts = train(PixelLoss(network()), crops(), settings, tmp_path / "parts", Recorder())
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
