"""Select the backends, providers, scales and sizes of a benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flowsr_export.bench.targets import TORCH_BACKENDS, torch_precision
from flowsr_export.bench.timing import TimingSchedule
from flowsr_export.inputs.cases import Case
from flowsr_export.inputs.run_sizes import Scale, low_resolution_size, scales_of
from flowsr_export.parity.candidates import GPU_PROVIDERS
from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.backends.session import AUTO, Choice, preferred_precision
from flowsr_runtime.cuda.driver import count_gpus
from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import size_for, size_text

__all__ = [
    "SCALES",
    "SWEPT_SIDES",
    "BenchmarkConfig",
    "benchmark_cases",
    "resolved",
    "session_settings",
]

SCALES = ("1.5", "2", "3", "4", "8")  # default of a bundle that supports any scale
SWEPT_SIDES = (32, 48, 64, 96, 128, 160)  # low-resolution pixels


@dataclass(frozen=True)
class BenchmarkConfig:
    """Scope and schedule of a benchmark.

    Attributes:
        threads: CPU threads of every library.
        bundle: Folder of the bundle, None for the built-in one.
        model: Checkpoint of the flow, for PyTorch; None for the built-in one.
        prior: Checkpoint of the latent module.
        backends: Backends of the runtime, and `TORCH_BACKENDS`; "auto" is the one that
            `SessionSettings` chooses.
        provider: Provider of ONNX Runtime; None for every provider that starts.
        device: GPU index.
        precision: Precision of the bundle's graph, "auto" for the one that the first backend
            would choose; `torch_precision` says what PyTorch runs beside it.
        scales: Scales as they were typed; empty for the bundle's own, or `SCALES`.
        lr_sizes: Low-resolution sizes (h, w).
        output_size: Output size (H, W), which replaces `lr_sizes`.
        batches: Numbers of images in one run.
        streams: Numbers of runs at once, for the runtime's backends.
        cuda_graphs: Captured CUDA graphs with which GPUs are measured too, 0 for none.
        pace: Duration and blocks.
        percentiles: Percentiles beside the median.
        memory: Whether to measure memory.
        stages: Whether to profile stages.
        growth: Whether to fit time over size.
        self_test: Whether each session meets the golden pair before it is measured.
        tf32: As in `SessionSettings`.
        convolution_search: As in `SessionSettings`.
    """

    threads: int
    bundle: Path | None = None
    model: Path | None = None
    prior: Path | None = None
    backends: tuple[str, ...] = (AUTO,)
    provider: str | None = None
    device: int = 0
    precision: str = AUTO
    scales: tuple[Scale, ...] = ()
    lr_sizes: tuple[tuple[int, int], ...] = ((128, 128),)
    output_size: tuple[int, int] | None = None
    batches: tuple[int, ...] = (1,)
    streams: tuple[int, ...] = (1,)
    cuda_graphs: int = 0
    pace: TimingSchedule = field(default_factory=TimingSchedule)
    percentiles: tuple[float, ...] = (90.0, 95.0, 99.0)
    memory: bool = True
    stages: bool = True
    growth: bool = False
    self_test: bool = True
    tf32: bool = False
    convolution_search: str = "heuristic"

    @property
    def graph_precision(self) -> str:
        """Precision of the graph that runs; see `SessionSettings.graph_precision`."""
        hinted = self.precision == "bf16" and "openvino" in self.backends
        return "fp32" if hinted else self.precision

    def summary(self) -> dict[str, Any]:
        """Return the settings that a report states."""
        return {
            "threads": self.threads,
            "warm_up_seconds": self.pace.warm_up,
            "duration_seconds": self.pace.duration,
            "blocks": self.pace.blocks,
            "seed": self.pace.seed,
            "min_runs": self.pace.min_runs,
            "batches": list(self.batches),
            "streams": list(self.streams),
            "cuda_graphs": self.cuda_graphs,
            "percentiles": list(self.percentiles),
            "self_test": self.self_test,
        }


def benchmark_cases(bundle: Bundle, config: BenchmarkConfig) -> list[tuple[str, Case]]:
    """Return every scale, as text, with its sizes.

    Raises:
        ScaleError: If the model does not support a scale or a size.
    """
    manifest = bundle.manifest
    for size in config.lr_sizes:
        if min(size) < 1:
            raise ScaleError(
                f"lr_size must be at least 1x1, got {size_text(size)}", option="lr_size"
            )
    scales = config.scales or (SCALES if manifest.scale is None else ())
    cases = []
    for row, column in scales_of(manifest, scales):
        text = f"{float(row):g}" if row == column else f"{float(column):g}x{float(row):g}"
        if config.output_size is None:
            sizes = [
                (lr, size_for(lr, scale=(row, column), size=None)) for lr in config.lr_sizes
            ]
        else:
            lr = low_resolution_size(manifest, config.output_size, (row, column))
            sizes = [(lr, config.output_size)]
        cases += [(text, Case(lr, out, batch)) for lr, out in sizes for batch in config.batches]
    return cases


def resolved(
    bundle: Bundle, config: BenchmarkConfig, choose: Callable[[Choice], None]
) -> BenchmarkConfig:
    """Replace backend and precision auto by those that run here.

    Args:
        bundle: The bundle.
        config: Configuration.
        choose: Called with the choice of backend auto.

    Raises:
        FlowsrError: As `SessionSettings.choose`.
    """
    if AUTO not in config.backends:
        if config.precision != AUTO:
            return config
        tensorrt = any(name.startswith("tensorrt") for name in config.backends)
        on_gpu = tensorrt or config.provider in GPU_PROVIDERS
        return replace(config, precision=preferred_precision(bundle, on_gpu=on_gpu))
    asked = SessionSettings(AUTO, config.provider, config.device, precision=config.precision)
    asked = replace(asked, self_test=config.self_test, **_cuda(config))
    session, choice = asked.choose(bundle)
    session.close()
    choose(choice)
    one = choice.settings
    named = (one.backend if name == AUTO else name for name in config.backends)
    changes: dict[str, Any] = {"backends": tuple(named), "precision": one.precision}
    if one.backend in ("onnxruntime", "inductor"):
        changes["provider"] = one.provider
    return replace(config, **changes)


def session_settings(config: BenchmarkConfig) -> list[SessionSettings]:
    """Return the settings of each backend; without a provider every one is to be tried."""
    settings = []
    for backend in dict.fromkeys(config.backends):
        if backend in TORCH_BACKENDS:
            settings += _torch_settings(config, backend)
            continue
        strict = {"onnxruntime": config.provider, "openvino": "cpu"}
        if backend == "inductor":
            strict[backend] = config.provider or ("cuda" if count_gpus() else "cpu")
        provider = strict.get(backend, "cuda")
        device = 0 if provider in ("cpu", "openvino") else config.device
        one = SessionSettings(backend, provider, device, config.threads, config.precision)
        if backend == "onnxruntime":
            one = replace(one, **_cuda(config))
        elif backend == "inductor" or provider == "cuda":
            one = replace(one, workers=max(config.streams))
        settings.append(one)
        if config.cuda_graphs and one.provider in GPU_PROVIDERS:
            settings.append(replace(one, cuda_graphs=config.cuda_graphs))
    return settings


def _cuda(config: BenchmarkConfig) -> dict[str, Any]:
    return {"tf32": config.tf32, "convolution_search": config.convolution_search}


def _torch_settings(config: BenchmarkConfig, backend: str) -> list[SessionSettings]:
    return [
        SessionSettings(
            backend,
            provider,
            0 if provider == "cpu" else config.device,
            config.threads,
            torch_precision(backend, config.precision, on_gpu=provider != "cpu"),
        )
        for provider in _torch_providers(config.provider)
    ]


def _torch_providers(provider: str | None) -> list[str]:
    if provider is not None:
        return ["cuda" if provider in ("cuda", "tensorrt") else "cpu"]
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
