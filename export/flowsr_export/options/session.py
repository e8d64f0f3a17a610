"""Options of an inference session: backend, provider, device, threads, precision."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flowsr_export.options.shared import (
    POSITIVE,
    Option,
    choice_option,
    device_option,
    number_option,
    packs,
    precision_option,
    provider_option,
    threads_option,
)
from flowsr_export.options.values import WholeRange

__all__ = ["evaluation_options", "session_options", "verification_options"]

BACKENDS = ["onnxruntime", "tensorrt", "tensorrt_rtx"]


def _session_options(provider_help: str, backends: Sequence[str] = BACKENDS) -> Option:
    """Return a decorator that passes `SessionSettings` to the command as `settings`."""
    return packs(
        "flowsr_runtime.backends.session:SessionSettings",
        choice_option("--backend", backends, "Inference library."),
        provider_option(provider_help),
        device_option,
        threads_option,
        precision_option("Precision of the bundle's graph to run."),
        click.option(
            "--workers",
            type=POSITIVE,
            show_default="4",
            help="Maximum number of concurrent runs on a GPU (TensorRT).",
        ),
        number_option(
            "--cuda-graphs",
            WholeRange(min=0),
            0,
            "Maximum number of captured CUDA graphs, which speed up sizes that repeat; 0 "
            "disables them.",
        ),
    )


session_options = _session_options("Execution provider of ONNX Runtime.  [default: cpu]")
verification_options = _session_options(
    "Execution provider of ONNX Runtime.  [default: every available one]"
)
evaluation_options = _session_options(
    "Execution provider of ONNX Runtime, or device of PyTorch.  [default: cpu]",
    [*BACKENDS, "torch"],
)
