"""A small LINF, and stand-ins for what a training run reports to and compares with."""

from typing import Any

from torch import Tensor, nn

__all__ = ["MODEL", "Blur", "Recorder"]

MODEL: dict[str, Any] = {
    "name": "linf-patch",
    "args": {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}},
        "flow_layers": 2,
        "num_layer": 1,
        "hidden_dim": 8,
        "patch_size": 3,
    },
}


class Blur(nn.Module):
    """Stands in for the perceptual loss: no weights to load."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(output - target, 2).abs().mean()


class Recorder:
    """Remembers what was reported; interrupts the run at a step."""

    def __init__(self, interrupt_at: int = 0) -> None:
        self.losses: list[float] = []
        self.steps: list[int] = []
        self.interrupt_at = interrupt_at

    def __call__(self, step: int, steps: int, figures: dict[str, float]) -> None:
        self.steps.append(step)
        self.losses.append(next(iter(figures.values())))
        if step == self.interrupt_at:
            raise KeyboardInterrupt
