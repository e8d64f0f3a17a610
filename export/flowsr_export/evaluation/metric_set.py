"""The figures that an evaluation computes, with the published borders left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation import metrics as figures_of
from flowsr_export.evaluation.metrics import METRICS, SSIM_WINDOW
from flowsr_runtime.errors import MetricError, UsageError
from flowsr_runtime.geometry import exact_scale

if TYPE_CHECKING:
    import torch

    from flowsr_lp.perceptual import LPIPS

__all__ = ["DEFAULT_METRICS", "OF_SAMPLES", "MetricSet"]

Picture = NDArray[np.uint8]

DEFAULT_METRICS = ("psnr", "psnr-y", "ssim", "ssim-y", "lpips", "lr-psnr")
OF_SAMPLES = ("diversity", "diversity-score")
PERCEPTUAL = ("lpips", "diversity-score")
DIV2K_SHAVE = 6  # pixels that LIIF and LINF leave out beyond the scale, in RGB


@dataclass(frozen=True)
class MetricSet:
    """The figures that are computed.

    Attributes:
        metrics: Keys of `METRICS`.
        shave: Pixels left out on every side, None for the published rules.
        lpips: The perceptual distance, None if no figure needs it.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    shave: int | None = None
    lpips: LPIPS | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls,
        metrics: Sequence[str],
        *,
        shave: int | None = None,
        alexnet: Path | None = None,
        linear: Path | None = None,
    ) -> MetricSet:
        """Load what the figures need.

        Args:
            metrics: Keys of `METRICS`.
            shave: Pixels left out on every side, None for the published rules.
            alexnet: AlexNet's weights, for LPIPS.
            linear: LPIPS's own weights.

        Raises:
            UsageError: If a figure is unknown, or LPIPS is asked for without its weights.
            CheckpointError: If a file of weights is missing, damaged or another.
        """
        if not metrics or set(metrics) - set(METRICS):
            got = ", ".join(metrics) or "none"
            raise UsageError(f"metrics must be among {', '.join(METRICS)}, got {got}")
        perceptual = [name for name in PERCEPTUAL if name in metrics]
        ordered = tuple(name for name in METRICS if name in metrics)
        if not perceptual:
            return cls(ordered, shave)
        if alexnet is None or linear is None:
            raise UsageError(
                f"{perceptual[0]} needs weights: give --alexnet (torchvision's "
                "alexnet-owt-7be5be79.pth) and --lpips-weights (alex.pth of LPIPS v0.1), or "
                f"name the other figures with --metric"
            )
        from flowsr_lp.perceptual import LPIPS

        return cls(ordered, shave, LPIPS(alexnet, linear))

    def borders(self, scale: str) -> tuple[int, int]:
        """Return the pixels shaved from RGB and from luma; a scale counts rounded up."""
        whole = math.ceil(exact_scale(scale))
        return (
            whole + DIV2K_SHAVE if self.shave is None else self.shave,
            whole if self.shave is None else self.shave,
        )

    def smallest(self, scale: str) -> int:
        """Return the pixels a side that an original needs for every figure."""
        rgb, luma = self.borders(scale)
        needs = {
            "psnr": 2 * rgb + 1,
            "psnr-y": 2 * luma + 1,
            "ssim": 2 * (self.shave or 0) + SSIM_WINDOW,
            "ssim-y": 2 * luma + SSIM_WINDOW,
        }
        lpips = 1 if self.lpips is None else self.lpips.smallest
        return max(lpips, *(needs.get(name, 1) for name in self.metrics))

    def measure(
        self, outputs: Sequence[Picture], original: Picture, low: Picture, scale: str
    ) -> tuple[dict[str, float], tuple[dict[str, float], ...]]:
        """Compute every figure.

        Args:
            outputs: Samples, each (H, W, 3) uint8.
            original: (H, W, 3) uint8.
            low: What they were made from, (h, w, 3) uint8.
            scale: Output pixels per input pixel.

        Returns:
            The figures, means over the samples where they are of one; and those of each.

        Raises:
            MetricError: If a figure is not finite.
        """
        each = tuple(self._of_one(output, original, low, scale) for output in outputs)
        figures = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        figures |= self._of_all(outputs, original)
        for name, value in figures.items():
            if not math.isfinite(value):
                why = "; the two pictures are equal" if value == math.inf else ""
                raise MetricError(f"{name} is {value}{why}")
        return {name: figures[name] for name in self.metrics}, each

    def _of_one(
        self, output: Picture, original: Picture, low: Picture, scale: str
    ) -> dict[str, float]:
        rgb, luma = self.borders(scale)
        compute: dict[str, Callable[[], float]] = {
            "psnr": lambda: figures_of.psnr(output, original, rgb),
            "psnr-y": lambda: figures_of.psnr_y(output, original, luma),
            "ssim": lambda: figures_of.ssim(output, original, self.shave or 0),
            "ssim-y": lambda: figures_of.ssim_y(output, original, luma),
            "lpips": lambda: self._lpips(output, original),
            "lr-psnr": lambda: figures_of.lr_psnr(output, low),
        }
        return {name: compute[name]() for name in self.metrics if name in compute}

    def _of_all(self, outputs: Sequence[Picture], original: Picture) -> dict[str, float]:
        """Figures of all samples; one picture, which no seed changes, has no diversity."""
        wanted = [name for name in OF_SAMPLES if name in self.metrics]
        if len(outputs) == 1:
            return dict.fromkeys(wanted, 0.0)
        found = {}
        if "diversity" in wanted:
            found["diversity"] = figures_of.diversity(outputs)
        if "diversity-score" in wanted:
            maps = [self._lpips_map(output, original) for output in outputs]
            found["diversity-score"] = figures_of.diversity_score(maps)
        return found

    def _lpips(self, output: Picture, original: Picture) -> float:
        import torch

        assert self.lpips is not None
        with torch.inference_mode():
            return float(self.lpips(_tensor(output), _tensor(original)))

    def _lpips_map(self, output: Picture, original: Picture) -> NDArray[np.float32]:
        import torch

        assert self.lpips is not None
        with torch.inference_mode():
            found = self.lpips.spatial(_tensor(output), _tensor(original))
        return np.asarray(found[0, 0].numpy(), np.float32)


def _tensor(picture: Picture) -> torch.Tensor:
    import torch

    return torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32) / 255)
