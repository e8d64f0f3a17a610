"""Pre-training of RRDB by L1: the trunk with which SRFlow's training begins."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from flowsr_lp import save_weights
from flowsr_lp.perceptual import load_tensors
from flowsr_lp.srflow.encoder import RRDBNet
from flowsr_lp.training.flows import begin
from flowsr_lp.training.run import (
    Loop,
    Started,
    at_own_scale,
    carry_out,
    check_linf_only,
    check_windows,
    cut_crops,
    held_out_crops,
    opened,
)

__all__ = ["PixelLoss", "train_rrdb"]

FILE = "rrdb.safetensors"


class PixelLoss:
    """L1 between the output and the truth."""

    def __init__(self, network: RRDBNet) -> None:
        """Train `network`."""
        self.trained = self.network = network

    def to(self, device: torch.device) -> None:
        """Move the network."""
        self.network.to(device)

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch (B, 3, h, w), (B, 3, H, W), RGB in [0, 1]."""
        loss = F.l1_loss(self.network(low), high)
        return loss, {"l1": loss.item()}


def train_rrdb(sizes: dict[str, int], loop: Loop, started: Started) -> Path:
    """Train an RRDB network and write `rrdb.safetensors` into the run's folder.

    Args:
        sizes: Arguments of `RRDBNet`.
        loop: Settings of the run.
        started: Called with the first step; returns the callback for every step.

    Returns:
        The file, with which the training of an SRFlow of the same trunk can begin.

    Raises:
        FlowsrError: As `train_flow`.
    """
    with opened(loop) as processes:
        torch.manual_seed(loop.settings.seed)
        network = RRDBNet(**sizes)
        check_linf_only(network, loop.augmentation)
        loop = at_own_scale(loop, network)
        check_windows(loop, network)
        if loop.start is not None:
            begin(network, load_tensors(loop.start), loop.start)
        crops = cut_crops(loop, network, processes)
        recipe: dict[str, Any] = {"rrdb": sizes}
        held_out = held_out_crops(loop, network, processes)
        arguments = PixelLoss(network), crops, held_out, loop, processes, recipe, started
        carry_out(*arguments, partial(_save, sizes))
    return loop.output / FILE


def _save(sizes: dict[str, int], folder: Path, weights: dict[str, Tensor]) -> None:
    save_weights(folder / FILE, "trunk", {"name": "rrdb", "args": sizes}, weights)
