"""Quality gates of a quantized graph on held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowsr_calibration.crops import Crop
from flowsr_calibration.panel import Agreement, HeldOutSet, eight_bit
from flowsr_export.evaluation.metrics import psnr_y
from flowsr_runtime.errors import UsageError
from flowsr_runtime.pictures.pixels import full_range

if TYPE_CHECKING:
    from flowsr_lp.perceptual import LPIPS

__all__ = ["Budget", "Gates", "gated", "load_lpips", "luma_quality"]

MAX_COLOR_SHIFT = 0.25  # eight-bit steps, mean of a channel
MAX_PSNR_LOSS = 0.1  # dB of the luma against the originals
MAX_LPIPS_LOSS = 0.01


@dataclass(frozen=True)
class Budget:
    """Limits on the loss of quality by quantization.

    Attributes:
        least_db: Minimum PSNR against the float32 graph, dB; None for no limit.
        most_loss: Maximum decrease of the luma PSNR against the originals, dB; None for the
            default.
    """

    least_db: float | None = 38.0
    most_loss: float | None = None

    def holds(self, agreement: Agreement) -> bool:
        """Return whether every crop is within the budget; used to choose blocks.

        The gate considers all held-out crops together. The stricter condition on every crop of
        the calibration images is a margin for unseen images.
        """
        enough = self.least_db is None or agreement.worst >= self.least_db
        return enough and agreement.quality_loss <= self.loss and not agreement.non_finite

    @property
    def loss(self) -> float:
        """Maximum decrease of the luma PSNR, dB."""
        return MAX_PSNR_LOSS if self.most_loss is None else self.most_loss


@dataclass(frozen=True)
class Gates:
    """Measurements on the held-out images.

    Attributes:
        crops: Number of crops.
        pictures: Number of images.
        psnr: PSNR against the float32 graph, all crops together, dB.
        worst: Lowest PSNR of a crop, dB.
        worst_crop: Image and scale of that crop.
        psnr_loss: Mean decrease of the luma PSNR against the originals, dB.
        lpips_loss: Mean increase of LPIPS, None without its weights.
        color_shift: Mean difference of red, green and blue, eight-bit steps.
        non_finite: Number of values that are not finite.
        missed: Violated gates, one sentence each.
    """

    crops: int
    pictures: int
    psnr: float
    worst: float
    worst_crop: str
    psnr_loss: float
    lpips_loss: float | None
    color_shift: tuple[float, float, float]
    non_finite: int
    missed: tuple[str, ...]


def luma_quality(output: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Return the luma PSNR of an output against its original, (H, W, 3) uint8, in dB."""
    return psnr_y(output, original, min(4, (min(output.shape[:2]) - 1) // 2))


def load_lpips(alexnet: Path | None, linear: Path | None) -> LPIPS | None:
    """Load LPIPS; return None without weights.

    Args:
        alexnet: AlexNet's weights.
        linear: LPIPS's own weights.

    Raises:
        UsageError: If only one of them is given.
        CheckpointError: If one cannot be read.
    """
    from flowsr_lp.perceptual import LPIPS

    if alexnet is None and linear is None:
        return None
    if alexnet is None or linear is None:
        wrong = "alexnet and lpips_weights must be given together"
        raise UsageError(wrong, option="alexnet" if alexnet is None else "lpips_weights")
    return LPIPS(alexnet, linear)


def gated(panel: HeldOutSet, model: bytes, budget: Budget, lpips: LPIPS | None) -> Gates:
    """Measure a graph on held-out images and check the gates.

    Args:
        panel: Held-out crops, with `luma_quality`.
        model: The quantized graph.
        budget: Limits on the loss of quality.
        lpips: Perceptual distance, None to skip it.
    """
    outputs = panel.outputs(model)
    agreement = panel.compared(outputs)
    distance = None if lpips is None else math.nan
    if lpips is not None and not agreement.non_finite:
        before, after = (_distance(lpips, o, panel.crops) for o in (panel.references, outputs))
        distance = after - before
    missed = _violations(agreement, distance, budget)
    return Gates(
        crops=len(panel.crops),
        pictures=len({crop.picture for crop in panel.crops}),
        psnr=agreement.psnr,
        worst=agreement.worst,
        worst_crop=agreement.worst_crop,
        psnr_loss=agreement.quality_loss,
        lpips_loss=distance,
        color_shift=agreement.color_shift,
        non_finite=agreement.non_finite,
        missed=tuple(missed),
    )


def _violations(agreement: Agreement, distance: float | None, budget: Budget) -> list[str]:
    """Return the violated gates; NaN violates its gate."""
    missed, loss = [], agreement.quality_loss
    if agreement.non_finite:
        missed.append(f"values must be finite, got {agreement.non_finite} that are not")
    if budget.least_db is not None and not agreement.psnr >= budget.least_db:
        missed.append(
            f"PSNR against float32 must be at least {budget.least_db:g} dB, got "
            f"{agreement.psnr:.2f} (lowest of a crop {agreement.worst:.2f}, "
            f"{agreement.worst_crop})"
        )
    if not loss <= budget.loss:
        missed.append(f"luma PSNR must decrease by at most {budget.loss:g} dB, got {loss:.3f}")
    if distance is not None and not distance <= MAX_LPIPS_LOSS:
        missed.append(f"LPIPS must increase by at most {MAX_LPIPS_LOSS:g}, got {distance:.4f}")
    missed += [
        f"{color} must shift by at most {MAX_COLOR_SHIFT:g} eight-bit steps, got {shift:.3f}"
        for color, shift in zip(("red", "green", "blue"), agreement.color_shift, strict=True)
        if not abs(shift) <= MAX_COLOR_SHIFT
    ]
    return missed


def _distance(
    lpips: LPIPS, outputs: Sequence[NDArray[np.float32]], crops: Sequence[Crop]
) -> float:
    """Return the mean LPIPS of outputs against the originals."""
    import torch

    def tensor(picture: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(full_range(picture.transpose(2, 0, 1)[None]))

    with torch.inference_mode():
        distances = [
            lpips(tensor(eight_bit(output)), tensor(crop.high)).item()
            for output, crop in zip(outputs, crops, strict=True)
        ]
    return float(np.mean(distances))
