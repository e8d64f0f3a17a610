"""What to measure: backends, providers, scales and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowsr_export.bench.targets import TORCH_BACKENDS, ModelTarget
from flowsr_export.bench.timing import TimingSchedule
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.run_sizes import Scale, scales_of
from flowsr_runtime import Bundle, UsageError
from flowsr_runtime.geometry import size_for

__all__ = [
    "SCALES",
    "SWEPT_SIDES",
    "BenchmarkConfig",
    "benchmark_cases",
    "loadings_of",
    "settings_of",
]

SCALES = ("1.5", "2", "3", "4", "8")  # of a bundle of any scale, where none is asked for
SWEPT_SIDES = (32, 48, 64, 96, 128, 160)  # low-resolution pixels


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure.

    Attributes:
        threads: CPU threads of everything.
        bundle: Its folder, None for the built-in one.
        model: Checkpoint of its flow, for PyTorch; None for the built-in one.
        prior: Checkpoint of its latent module.
        backends: Backends of the runtime, and `TORCH_BACKENDS`.
        provider: What they compute with; None for every provider that starts.
        device: Number of the GPU.
        precision: Which of the bundle's graphs; PyTorch runs float32.
        scales: As they were typed; none for the bundle's own, or `SCALES`.
        lr_sizes: Low-resolution sizes (h, w).
        output_size: Output size (H, W) in their place.
        batch: Pictures at once.
        pace: How long.
        percentiles: Which ones beside the median.
        memory: Whether to measure memory.
        stages: Whether to profile.
        growth: Whether to fit how the time grows.
    """

    threads: int
    bundle: Path | None = None
    model: Path | None = None
    prior: Path | None = None
    backends: tuple[str, ...] = ("onnxruntime",)
    provider: str | None = None
    device: int = 0
    precision: str = "fp32"
    scales: tuple[Scale, ...] = ()
    lr_sizes: tuple[tuple[int, int], ...] = ((128, 128),)
    output_size: tuple[int, int] | None = None
    batch: int = 1
    pace: TimingSchedule = field(default_factory=TimingSchedule)
    percentiles: tuple[float, ...] = (90.0, 95.0, 99.0)
    memory: bool = True
    stages: bool = True
    growth: bool = False


def benchmark_cases(bundle: Bundle, config: BenchmarkConfig) -> list[tuple[str, Case]]:
    """Return every scale, as it is shown, with its sizes.

    Raises:
        ScaleError: If the model cannot produce a scale or a size.
    """
    manifest = bundle.manifest
    asked = config.scales or (SCALES if manifest.scale is None else ())
    cases = []
    for row, column in scales_of(manifest, asked):
        shown = f"{float(row):g}" if row == column else f"{float(column):g}x{float(row):g}"
        if config.output_size is None:
            sizes = [
                (lr, size_for(lr, scale=(row, column), size=None)) for lr in config.lr_sizes
            ]
        else:
            height, width = config.output_size
            lr = max(1, round(height / row)), max(1, round(width / column))
            out = size_for(lr, scale=(row, column), size=None)
            if manifest.scale is not None and out != config.output_size:
                raise UsageError(
                    f"no picture becomes {width}x{height} at {shown}; "
                    f"{lr[1]}x{lr[0]} becomes {out[1]}x{out[0]}"
                )
            sizes = [(lr, size_for(lr, scale=None, size=config.output_size))]
        cases += [(shown, Case(lr, out, config.batch)) for lr, out in sizes]
    return cases


def loadings_of(config: BenchmarkConfig) -> list[ModelTarget]:
    """Return every backend with every provider that may start."""
    loadings = []
    for backend in dict.fromkeys(config.backends):
        precision = "fp32" if backend in TORCH_BACKENDS else config.precision
        for provider in _providers(backend, config.provider):
            loadings.append(
                ModelTarget(
                    config.bundle,
                    config.model,
                    config.prior,
                    backend,
                    provider,
                    config.device if provider in ("cuda", "tensorrt") else 0,
                    config.threads,
                    precision,
                )
            )
    return loadings


def settings_of(config: BenchmarkConfig) -> dict[str, Any]:
    """Return what a report says of the pace."""
    return {
        "threads": config.threads,
        "warm_up_seconds": config.pace.warm_up,
        "duration_seconds": config.pace.duration,
        "blocks": config.pace.blocks,
        "seed": config.pace.seed,
        "batch": config.batch,
        "percentiles": list(config.percentiles),
    }


def _providers(backend: str, provider: str | None) -> list[str]:
    if backend in TORCH_BACKENDS:
        if provider is not None:
            return ["cuda" if provider in ("cuda", "tensorrt") else "cpu"]
        import torch

        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if backend != "onnxruntime":
        return ["cuda"]
    if provider is not None:
        return [provider]
    from flowsr_runtime.backends.onnxruntime_session import present_providers

    return present_providers()
