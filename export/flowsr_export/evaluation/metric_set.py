"""The metrics of an evaluation under a protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation import metrics as functions
from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_export.evaluation.mesh import mesh_pattern, mesh_ratio, smallest_side
from flowsr_export.evaluation.metrics import METRICS, SSIM_WINDOW, Levels, eight_bit
from flowsr_export.evaluation.protocol import OWN, Protocol
from flowsr_runtime.errors import MetricError, UsageError
from flowsr_runtime.geometry import exact_scale
from flowsr_runtime.pictures.pixels import full_range

if TYPE_CHECKING:
    from torch import Tensor

    from flowsr_lp.perceptual import DISTS, LPIPS

__all__ = ["DEFAULT_METRICS", "OF_SAMPLES", "MetricSet"]

Picture = NDArray[np.uint8]

DEFAULT_METRICS = ("psnr", "psnr-y", "ssim", "ssim-y", "lpips", "dists", "lr-psnr")
OF_SAMPLES = ("diversity", "diversity-score")
MESH = ("mesh", "mesh-pattern")  # what the metric "mesh" computes
PERCEPTUAL = ("lpips", "diversity-score")


@dataclass(frozen=True)
class MetricSet:
    """The metrics to compute.

    Attributes:
        metrics: Keys of `METRICS`.
        shave: Pixels to shave on every side, None for the protocol's.
        lpips: Perceptual distance, None if no metric needs it.
        dists: The same.
        protocol: Borders, and the forms of values, SSIM and consistency.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    shave: int | None = None
    lpips: LPIPS | None = field(default=None, repr=False)
    protocol: Protocol = OWN
    dists: DISTS | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls,
        metrics: Sequence[str],
        *,
        shave: int | None = None,
        alexnet: Path | None = None,
        linear: Path | None = None,
        vgg16: Path | None = None,
        dists_weights: Path | None = None,
        protocol: Protocol = OWN,
    ) -> MetricSet:
        """Load the weights that the metrics need.

        Args:
            metrics: Keys of `METRICS`.
            shave: Pixels to shave on every side, None for the protocol's.
            alexnet: AlexNet's weights, for LPIPS.
            linear: LPIPS's own weights.
            vgg16: VGG16's weights, for DISTS.
            dists_weights: DISTS's own weights.
            protocol: Borders, and the forms of values, SSIM and consistency.

        Raises:
            UsageError: If a metric is unknown, or LPIPS or DISTS lacks its weights.
            CheckpointError: If a file of weights is missing, damaged or another.
        """
        if not metrics or set(metrics) - set(METRICS):
            got = ", ".join(metrics) or "none"
            wrong = f"metrics must be among {', '.join(METRICS)}, got {got}"
            raise UsageError(wrong, option="metrics")
        chosen = {*metrics, *(MESH if "mesh" in metrics else ())}
        ordered = tuple(name for name in METRICS if name in chosen)
        lpips = _lpips([name for name in PERCEPTUAL if name in metrics], alexnet, linear)
        dists = _dists("dists" in metrics, vgg16, dists_weights)
        return cls(ordered, shave, lpips, protocol, dists)

    def shaved(self, metric: str, scale: str) -> int:
        """Return the pixels to shave for a metric; those of "lr-psnr" are of the input."""
        if self.shave is not None and metric != "lr-psnr":
            return self.shave
        return self.protocol.shaved(metric, scale)

    def smallest(self, scale: str, patch: int | None = None) -> int:
        """Return the pixels a side that an original needs for every metric.

        Args:
            scale: Output pixels per input pixel.
            patch: Side of the model's patches in output pixels, None if it has none.
        """
        windows = {"psnr": 1, "psnr-y": 1, "ssim": SSIM_WINDOW, "ssim-y": SSIM_WINDOW}
        needs = {name: 2 * self.shaved(name, scale) + side for name, side in windows.items()}
        needs["mesh"] = smallest_side(patch or 1)
        consistent = 2 * self.shaved("lr-psnr", scale) + 1
        needs["lr-psnr"] = math.ceil(consistent * exact_scale(scale))
        lpips = 1 if self.lpips is None else self.lpips.smallest
        return max(lpips, *(needs.get(name, 1) for name in self.metrics))

    def measure(
        self,
        outputs: Sequence[Levels],
        original: Picture,
        low: Picture,
        scale: str,
        *,
        patch: int | None = None,
        out_of_range: Sequence[float] = (),
    ) -> tuple[dict[str, float], tuple[dict[str, float], ...]]:
        """Compute every metric.

        Args:
            outputs: Samples, each (H, W, 3), uint8 or float in [0, 255].
            original: (H, W, 3) uint8.
            low: Input of the outputs, (h, w, 3) uint8.
            scale: Output pixels per input pixel.
            patch: Side of the model's patches in output pixels; only "mesh" needs it.
            out_of_range: Share in percent of each sample's values outside [-0.1, 1.1]; only
                that metric needs it.

        Returns:
            Values, averaged over the samples, and the values of each sample.

        Raises:
            MetricError: If a value is not finite.
        """
        samples = tuple(self._of_one(output, original, low, scale) for output in outputs)
        if any(name in self.metrics for name in MESH):
            bicubic = matlab_bicubic(low, (original.shape[0], original.shape[1]))
            for output, sample in zip(outputs, samples, strict=True):
                sample.update(self._of_mesh(eight_bit(output), bicubic, patch))
        if "out-of-range" in self.metrics:
            for share, sample in zip(out_of_range, samples, strict=True):
                sample["out-of-range"] = share
        figures = {
            name: float(np.mean([sample[name] for sample in samples])) for name in samples[0]
        }
        figures |= self._of_all(outputs, original)
        for name, value in figures.items():
            if not math.isfinite(value):
                why = "; the two images are equal" if value == math.inf else ""
                raise MetricError(f"{name} must be finite, got {value}{why}")
        return {name: figures[name] for name in self.metrics}, samples

    def _of_one(
        self, output: Levels, original: Picture, low: Picture, scale: str
    ) -> dict[str, float]:
        shave = {name: self.shaved(name, scale) for name in self.metrics}
        kind, rounded = self.protocol.ssim_kind, self.protocol.lr_rounded
        compute: dict[str, Callable[[], float]] = {
            "psnr": lambda: functions.psnr(output, original, shave["psnr"]),
            "psnr-y": lambda: functions.psnr_y(output, original, shave["psnr-y"]),
            "ssim": lambda: functions.ssim(output, original, shave["ssim"], kind),
            "ssim-y": lambda: functions.ssim_y(output, original, shave["ssim-y"], kind),
            "lpips": lambda: float(self._lpips(output, original)),
            "dists": lambda: self._dists(output, original),
            "lr-psnr": lambda: functions.lr_psnr(
                output, low, shave["lr-psnr"], rounded=rounded
            ),
        }
        return {name: compute[name]() for name in self.metrics if name in compute}

    def _of_mesh(
        self, output: Picture, bicubic: Picture, patch: int | None
    ) -> dict[str, float]:
        if patch is None:
            raise UsageError("mesh needs a model of patches", option="metrics")
        compute = {"mesh": mesh_ratio, "mesh-pattern": mesh_pattern}
        return {
            name: compute[name](output, bicubic, patch) for name in MESH if name in self.metrics
        }

    def _of_all(self, outputs: Sequence[Levels], original: Picture) -> dict[str, float]:
        """Return the metrics that compare samples; a single sample has no diversity."""
        names = [name for name in OF_SAMPLES if name in self.metrics]
        if len(outputs) == 1:
            return dict.fromkeys(names, 0.0)
        figures = {}
        if "diversity" in names:
            figures["diversity"] = functions.diversity([eight_bit(one) for one in outputs])
        if "diversity-score" in names:
            maps = [self._lpips(output, original, spatial=True) for output in outputs]
            figures["diversity-score"] = functions.diversity_score(maps)
        return figures

    def _lpips(
        self, output: Levels, original: Picture, *, spatial: bool = False
    ) -> NDArray[np.float32]:
        """Return LPIPS, (), or its map, (H, W)."""
        import torch

        assert self.lpips is not None
        a, b = _tensor(output), _tensor(original)
        with torch.inference_mode():
            distances = self.lpips.spatial(a, b) if spatial else self.lpips(a, b)
        return np.asarray(distances.squeeze().numpy(), np.float32)

    def _dists(self, output: Levels, original: Picture) -> float:
        import torch

        assert self.dists is not None
        with torch.inference_mode():
            return float(self.dists(_tensor(output), _tensor(original)))


def _lpips(metrics: Sequence[str], alexnet: Path | None, linear: Path | None) -> LPIPS | None:
    """Load LPIPS if a metric needs it."""
    if not metrics:
        return None
    if alexnet is None or linear is None:
        files = "alexnet (alexnet-owt-7be5be79.pth) and lpips_weights (alex.pth, v0.1)"
        raise UsageError(f"{metrics[0]} needs {files}", option="metrics")
    from flowsr_lp.perceptual import LPIPS

    return LPIPS(alexnet, linear)


def _dists(needed: bool, vgg16: Path | None, weights: Path | None) -> DISTS | None:
    """Load DISTS if it is needed."""
    if not needed:
        return None
    if vgg16 is None or weights is None:
        files = "vgg16 (vgg16-397923af.pth) and dists_weights (dists.pt)"
        raise UsageError(f"dists needs {files}", option="metrics")
    from flowsr_lp.perceptual import DISTS

    return DISTS(vgg16, weights)


def _tensor(levels: Levels) -> Tensor:
    """Return a picture, (H, W, 3) in [0, 255], as (1, 3, H, W) in [0, 1]."""
    import torch

    return torch.from_numpy(_unit(levels).transpose(2, 0, 1)[None].copy())


def _unit(levels: Levels) -> NDArray[np.float32]:
    """Return levels in [0, 255] as float32 in [0, 1]."""
    if levels.dtype == np.uint8:
        return full_range(levels)
    return np.asarray(levels / functions.PEAK, np.float32)
