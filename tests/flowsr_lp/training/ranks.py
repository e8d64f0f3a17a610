"""One of two processes of a run, started by the tests: `ranks.py TASK FOLDER`."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flowsr_lp import linf_from_spec
from flowsr_lp.srflow.encoder import RRDBNet
from flowsr_lp.training import loop
from flowsr_lp.training.crops import Batch, Crops
from flowsr_lp.training.linf import FlowLoss
from flowsr_lp.training.loop import Objective, Settings, train
from flowsr_lp.training.processes import PeerEndedError, Processes, joined
from flowsr_lp.training.rrdb import PixelLoss
from flowsr_lp.training.second_stage import OutputLoss, SecondStage
from flowsr_runtime.errors import FlowsrError
from tests import stand_in
from tests.flowsr_lp.training.doubles import MODEL, Recorder

__all__ = ["SETTINGS", "crops", "gradients", "objective"]

SETTINGS = Settings(steps=6, learning_rate=1e-3, ema_decay=0.9, save_every=2, seed=3)


class Float64Crops(Crops):
    """Crops of twice the precision."""

    def batch_at(self, step: int) -> Batch:
        """Cut the batch of one step."""
        return tuple(each.double() for each in super().batch_at(step))


def crops(batch: int, rank: int = 0, *, doubled: bool = False) -> Crops:
    """Crops of one scale, so that those of two processes can be joined."""
    pictures = [stand_in.picture(40, 40, salt) for salt in "abc"]
    cut = Float64Crops if doubled else Crops
    return cut(pictures, batch, 9, (4.0, 4.0), seed=3, rank=rank)


def objective(name: str) -> Objective:
    """A loss; those of "rrdb" and "mode" draw no noise."""
    torch.manual_seed(0)
    if name == "rrdb":
        return PixelLoss(RRDBNet(4, nb=1, nf=8, gc=4))
    linf = linf_from_spec(MODEL)
    if name == "mode":
        return OutputLoss(linf, SecondStage(perceptual_weight=0.0), None)
    return FlowLoss(linf, 2.0)


def gradients(
    loss: Objective, source: Crops, folder: Path, processes: Processes
) -> dict[str, Tensor]:
    """The gradients of the first step in float64.

    In float32 the L1 of a value near 0 has the sign of its rounding.
    """
    loss.trained.double()
    train(loss, source, replace(SETTINGS, steps=1), folder, Recorder(), processes)
    return {n: p.grad for n, p in loss.trained.named_parameters() if p.grad is not None}


class Spoiled(FlowLoss):
    """A loss that is not finite in the second step."""

    calls = 0

    def __call__(self, low: Tensor, high: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch."""
        loss, figures = super().__call__(low, high)
        self.calls += 1
        return (loss * float("nan") if self.calls == 2 else loss), figures


def main(task: str, folder: Path) -> None:
    """Run one task in this process of two; files are written for the tests to compare."""
    torch.set_num_threads(1)
    with joined("cpu") as processes:
        rank = processes.rank
        source = crops(processes.share(4), rank)
        if task in ("rrdb", "mode"):
            loop.GRADIENT_NORM = math.inf
            source = crops(processes.share(4), rank, doubled=True)
            found = gradients(objective(task), source, folder, processes)
            torch.save(found, folder / f"{task}.{rank}.pt")
            return
        if task == "unequal":
            crops(processes.share(3), rank)
        if task == "spoiled" and rank == 1:
            loss: Objective = Spoiled(linf_from_spec(MODEL))
        else:
            loss = objective("flow")
        processes.agree(None)
        seen = Recorder(interrupt_at=3 if task == "interrupted" else 0)
        weights = train(loss, source, SETTINGS, folder, seen, processes)
        torch.save(weights, folder / f"weights.{rank}.pt")


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except PeerEndedError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except FlowsrError as error:
        sys.exit(str(error))
