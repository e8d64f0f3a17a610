"""Options of an inference session: backend, provider, device, threads, precision."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from flowsr_export.options.shared import (
    POSITIVE,
    PRECISIONS,
    Option,
    choice_option,
    flag,
    number_option,
    packs,
    provider_option,
    threads_option,
)
from flowsr_export.options.values import WholeRange

__all__ = [
    "cuda_options",
    "evaluation_options",
    "self_test_option",
    "session_options",
    "verification_options",
]

BACKENDS = ["auto", "onnxruntime", "tensorrt", "tensorrt_rtx", "inductor", "openvino"]
BACKEND_HELP = (
    "Inference library; auto takes an engine of the bundle that fits the GPU, else ONNX "
    "Runtime on CUDA if it starts, else on the CPU an engine that fits it, else ONNX Runtime."
)
SELF_TEST_HELP = (
    "Run the bundle's golden pair first, unless it has passed with this library and device "
    "before.  [default: yes]"
)
self_test_option = click.option("--self-test/--no-self-test", default=True, help=SELF_TEST_HELP)

cuda_options = [
    flag(
        "--tf32",
        "Compute float32 graphs in TF32 on CUDA: faster, and off by 1e-3 and more. "
        "Half-precision graphs use it in any case.",
    ),
    choice_option(
        "--convolution-search",
        ["heuristic", "exhaustive"],
        "Choice of convolution algorithms on CUDA; exhaustive searches again at every new size "
        "and is for graphs of fixed size.",
    ),
]


def device_type(value: str) -> int | str:
    """Read a device: a GPU index, `cpu`, `cuda` or `cuda:1`; the runtime checks names."""
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else value


def _session_options(
    provider_help: str,
    backends: Sequence[str] = BACKENDS,
    backend_help: str = BACKEND_HELP,
    *options: Option,
) -> Option:
    """Return a decorator that passes `SessionSettings` to the command as `settings`."""
    return packs(
        "flowsr_runtime.backends.session:SessionSettings",
        choice_option("--backend", backends, backend_help),
        provider_option(provider_help),
        click.option(
            "--device",
            type=device_type,
            default="0",
            show_default=True,
            metavar="N|cpu|cuda:N",
            help="GPU index, if a GPU is used; cpu and cuda:N name the device to use.",
        ),
        threads_option,
        choice_option(
            "--precision",
            ["auto", *PRECISIONS],
            "Precision to run; auto is the bundle's only one, of several fp16 on a GPU and "
            "fp32 on a CPU. bf16 with openvino computes the fp32 graph in bfloat16.",
        ),
        click.option(
            "--workers",
            type=POSITIVE,
            show_default="4",
            help="Maximum number of concurrent runs of an engine (TensorRT and inductor).",
        ),
        number_option(
            "--cuda-graphs",
            WholeRange(min=0),
            0,
            "Maximum number of captured CUDA graphs, which speed up sizes that repeat; 0 "
            "disables them.",
        ),
        *cuda_options,
        *options,
    )


session_options = _session_options(
    "Execution provider of ONNX Runtime, taken strictly.  [default: cpu with --backend "
    "onnxruntime]",
    BACKENDS,
    BACKEND_HELP,
    self_test_option,
)
verification_options = _session_options(
    "Execution provider of ONNX Runtime.  [default: every available one]",
    BACKENDS[1:],
    "Inference library.",
)
evaluation_options = _session_options(
    "Execution provider of ONNX Runtime, or device of PyTorch.  [default: cpu with --backend "
    "onnxruntime and torch]",
    [*BACKENDS, "torch"],
    BACKEND_HELP,
    self_test_option,
)
