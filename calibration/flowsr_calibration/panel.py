"""Held-out crops on which a quantized graph is compared with the float32 graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from flowsr_calibration.crops import Crop, feeds_of
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.pictures.depth import full_scale, to_depth
from flowsr_runtime.pictures.pixels import full_range

__all__ = ["Agreement", "HeldOutSet", "eight_bit", "psnr"]

STEPS: Final = full_scale(np.dtype(np.uint8))  # of an eight-bit image

Quality = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


@dataclass(frozen=True)
class Agreement:
    """Differences between a graph and the float32 graph.

    Attributes:
        psnr: PSNR of all crops together, dB; infinite without a difference.
        worst: Lowest PSNR of a crop, dB.
        worst_crop: Image and scale of that crop.
        color_shift: Mean difference of each channel, eight-bit steps.
        non_finite: Number of values that are not finite.
        quality_loss: Mean decrease of the quality against the originals, NaN without a metric.
    """

    psnr: float
    worst: float
    worst_crop: str
    color_shift: tuple[float, float, float]
    non_finite: int
    quality_loss: float = math.nan


class HeldOutSet:
    """Crops with the outputs of the float32 graph."""

    def __init__(
        self,
        model: bytes,
        manifest: Manifest,
        crops: Sequence[Crop],
        *,
        threads: int | None = None,
        quality: Quality = lambda output, original: math.nan,
    ) -> None:
        """Run the float32 graph.

        Args:
            model: ONNX file of the float32 graph.
            manifest: Manifest of the bundle.
            crops: Crops, at least one.
            threads: CPU threads, None for all cores.
            quality: Metric of an output and its original, (H, W, 3) uint8; higher is better.
        """
        self.crops = tuple(crops)
        self._manifest, self._threads, self._quality = manifest, threads, quality
        self._feeds = [feeds_of(manifest, crop) for crop in crops]
        self.references = self.outputs(model)
        self._reference_quality = self._mean_quality(self.references)

    def outputs(self, model: bytes | ModelProto) -> list[NDArray[np.float32]]:
        """Run a graph on every crop with ONNX Runtime's CPU provider.

        Args:
            model: Graph with the inputs of the float32 graph.

        Returns:
            Images, (1, 3, H, W) each, unclamped.
        """
        content = model if isinstance(model, bytes) else model.SerializeToString()
        session = OnnxRuntimeSession(
            content, provider="cpu", device=0, threads=self._threads, name="the quantized model"
        )
        try:
            return [full_range(session.run(feeds)) for feeds in self._feeds]
        finally:
            session.close()

    def compare(self, model: bytes | ModelProto) -> Agreement:
        """Compare a graph with the float32 graph.

        Args:
            model: Graph with the inputs of the float32 graph.

        Returns:
            The differences; if a value is not finite the PSNR is minus infinity.
        """
        return self.compared(self.outputs(model))

    def compared(self, outputs: Sequence[NDArray[np.float32]]) -> Agreement:
        """Compare outputs with those of the float32 graph."""
        non_finite = sum(int((~np.isfinite(output)).sum()) for output in outputs)
        if non_finite:
            return Agreement(-math.inf, -math.inf, "", (math.nan,) * 3, non_finite)
        pairs = list(zip(outputs, self.references, strict=True))
        errors = [_clamped(output) - _clamped(reference) for output, reference in pairs]
        means = [float(np.mean(error**2)) for error in errors]
        worst = int(np.argmax(means))
        sizes = np.array([error.size for error in errors], np.float64)
        shifts = np.stack([error.mean(axis=(0, 2, 3)) for error in errors])
        red, green, blue = (shifts * sizes[:, None]).sum(axis=0) / sizes.sum() * STEPS
        crop = self.crops[worst]
        return Agreement(
            psnr=psnr(float(np.dot(means, sizes) / sizes.sum())),
            worst=psnr(means[worst]),
            worst_crop=f"{crop.picture.name} ×{crop.scale}",
            color_shift=(float(red), float(green), float(blue)),
            non_finite=0,
            quality_loss=self._reference_quality - self._mean_quality(outputs),
        )

    def _mean_quality(self, outputs: Sequence[NDArray[np.float32]]) -> float:
        pairs = zip(outputs, self.crops, strict=True)
        values = [self._quality(eight_bit(output), crop.high) for output, crop in pairs]
        return float(np.mean(values))


def psnr(mean_square: float) -> float:
    """Return the PSNR of a mean squared error of values in [0, 1], dB."""
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def eight_bit(output: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the first image of (B, 3, H, W) as (H, W, 3) uint8, rounded."""
    image: NDArray[np.uint8] = to_depth(np.clip(output[0], 0, 1).transpose(1, 2, 0), 8)
    return np.ascontiguousarray(image)


def _clamped(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.clip(values.astype(np.float64), 0, 1)
