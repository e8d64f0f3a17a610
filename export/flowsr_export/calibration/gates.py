"""Gates of a quantised graph, on pictures that its calibration did not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flowsr_calibration.crops import Crop
from flowsr_calibration.panel import Agreement, HeldOutSet, eight_bit
from flowsr_export.evaluation.metrics import psnr_y

if TYPE_CHECKING:
    from flowsr_lp.perceptual import LPIPS

__all__ = ["Budget", "Gates", "gated", "load_lpips", "luma_quality"]

MOST_COLOUR_SHIFT = 0.25  # eight-bit steps, mean of a channel
MOST_PSNR_LOSS = 0.1  # dB of the luma against the originals
MOST_LPIPS_LOSS = 0.01


@dataclass(frozen=True)
class Budget:
    """What quantisation may cost.

    Attributes:
        least_db: Least PSNR against the float32 graph, dB; None for no such bound.
        most_loss: Most that the luma PSNR against the originals may fall, dB; None for the
            gate's own bound.
    """

    least_db: float | None = 38.0
    most_loss: float | None = None

    def holds(self, found: Agreement) -> bool:
        """Return whether a graph keeps the budget with every crop; for choices.

        The gate is on all held-out crops together: that every crop of the calibration's own
        pictures keeps the bound is the margin for pictures that were not seen.
        """
        enough = self.least_db is None or found.worst >= self.least_db
        loss = found.quality_loss
        return enough and loss is not None and loss <= self.loss and not found.non_finite

    @property
    def loss(self) -> float:
        """Most that the luma PSNR may fall, dB."""
        return MOST_PSNR_LOSS if self.most_loss is None else self.most_loss


@dataclass(frozen=True)
class Gates:
    """Figures on the held-out pictures.

    Attributes:
        crops: How many were compared.
        pictures: Of how many pictures.
        psnr: Against the float32 graph, all crops together, dB.
        worst: The least of a crop, dB.
        worst_crop: Its picture and scale.
        psnr_loss: Mean fall of the luma PSNR against the originals, dB.
        lpips_loss: Mean rise of LPIPS; None where its weights were not given.
        colour_shift: Mean difference of red, green and blue, eight-bit steps.
        non_finite: Values that are not finite.
        missed: The gates that are missed, one sentence each.
    """

    crops: int
    pictures: int
    psnr: float
    worst: float
    worst_crop: str
    psnr_loss: float
    lpips_loss: float | None
    colour_shift: tuple[float, float, float]
    non_finite: int
    missed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Figures for JSON; what is not finite is null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        } | {"colour_shift": [n if math.isfinite(n) else None for n in self.colour_shift]}


def luma_quality(output: NDArray[np.uint8], original: NDArray[np.uint8]) -> float:
    """Return the luma PSNR of an output against its original, (H, W, 3) uint8, in dB."""
    return psnr_y(output, original, min(4, (min(output.shape[:2]) - 1) // 2))


def load_lpips(alexnet: Path | None, linear: Path | None) -> LPIPS | None:
    """Load LPIPS, None without its weights.

    Args:
        alexnet: AlexNet's weights.
        linear: LPIPS's own.

    Raises:
        UsageError: If only one of them is given.
        CheckpointError: If one cannot be read.
    """
    from flowsr_lp.perceptual import LPIPS
    from flowsr_runtime.errors import UsageError

    if alexnet is None and linear is None:
        return None
    if alexnet is None or linear is None:
        raise UsageError("--alexnet and --lpips-weights go together")
    return LPIPS(alexnet, linear)


def gated(panel: HeldOutSet, model: bytes, budget: Budget, lpips: LPIPS | None) -> Gates:
    """Judge a graph on pictures that were held out.

    Args:
        panel: Their crops, with `luma_quality`.
        model: The quantised graph.
        budget: What it may cost.
        lpips: The perceptual distance, None to leave it out.

    Returns:
        The figures and the gates that are missed.
    """
    outputs = panel.outputs(model)
    found = panel.compared(outputs)
    loss = math.nan if found.quality_loss is None else found.quality_loss
    distance = None
    if lpips is not None and not found.non_finite:
        distance = _distance(lpips, outputs, panel.crops) - _distance(
            lpips, panel.references, panel.crops
        )
    elif lpips is not None:
        distance = math.nan
    missed = _missed(found, loss, distance, budget)
    return Gates(
        crops=len(panel.crops),
        pictures=len({crop.picture for crop in panel.crops}),
        psnr=found.psnr,
        worst=found.worst,
        worst_crop=found.worst_crop,
        psnr_loss=loss,
        lpips_loss=distance,
        colour_shift=found.colour_shift,
        non_finite=found.non_finite,
        missed=tuple(missed),
    )


def _missed(found: Agreement, loss: float, distance: float | None, budget: Budget) -> list[str]:
    """Say which gates are missed; a figure that is not a number misses its gate."""
    missed = []
    if found.non_finite:
        missed.append(f"{found.non_finite} values are not finite")
    if budget.least_db is not None and not found.psnr >= budget.least_db:
        missed.append(
            f"PSNR against float32 must be at least {budget.least_db:g} dB, got "
            f"{found.psnr:.2f} (the least of a crop {found.worst:.2f}, {found.worst_crop})"
        )
    if not loss <= budget.loss:
        missed.append(f"luma PSNR must fall by at most {budget.loss:g} dB, got {loss:.3f}")
    if distance is not None and not distance <= MOST_LPIPS_LOSS:
        missed.append(f"LPIPS must rise by at most {MOST_LPIPS_LOSS:g}, got {distance:.4f}")
    missed += [
        f"{colour} must shift by at most {MOST_COLOUR_SHIFT:g} eight-bit steps, got {shift:.3f}"
        for colour, shift in zip(("red", "green", "blue"), found.colour_shift, strict=True)
        if not abs(shift) <= MOST_COLOUR_SHIFT
    ]
    return missed


def _distance(
    lpips: LPIPS, outputs: Sequence[NDArray[np.float32]], crops: Sequence[Crop]
) -> float:
    """Mean LPIPS of outputs against the originals."""
    import torch

    def tensor(picture: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255

    with torch.inference_mode():
        found = [
            lpips(tensor(eight_bit(output)), tensor(crop.high)).item()
            for output, crop in zip(outputs, crops, strict=True)
        ]
    return float(np.mean(found))
