"""Matrix products and copies that show the speed of the machine in the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx.parser
import onnxruntime as ort
import torch
from onnx import numpy_helper

__all__ = ["GEMM_SIDE", "Probe", "onnxruntime_gemm", "probes_of", "torch_gemm"]

GEMM_SIDE = 2048
GPU_GEMM_SIDE = 8192
COPIED_BYTES = 1 << 28  # larger than the caches of a processor
GEMM = """<ir_version: 10, opset_import: ["" : 18]>
gemm (float[n, n] a) => (float[n, n] c) { c = MatMul (a, b) }"""
TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Probe:
    """One operation whose speed is measured.

    Attributes:
        name: Library and precision.
        kind: Matrix product or copy.
        place: "cpu" or "cuda".
        amount: Multiply-adds, or bytes read and written, of one run.
        run: Run the operation once.
    """

    name: str
    kind: Literal["matmul", "copy"]
    place: str
    amount: int
    run: Callable[[], object]


def probes_of(threads: int, places: set[str], device: int, precision: str) -> list[Probe]:
    """Return the probes for the devices that a benchmark uses.

    Args:
        threads: CPU threads.
        places: "cpu", "cuda" or both; a GPU needs PyTorch with CUDA.
        device: GPU index.
        precision: Precision of the products on the GPU; the CPU computes in float32.

    Returns:
        Products with two libraries and a copy on the CPU, a product and a copy on the GPU.
    """
    probes = []
    if "cpu" in places:
        amount = GEMM_SIDE**3
        run = onnxruntime_gemm(threads)
        probes += [
            Probe("ONNX Runtime MatMul fp32", "matmul", "cpu", amount, run),
            Probe("torch.mm fp32", "matmul", "cpu", amount, torch_gemm()),
            Probe("torch copy", "copy", "cpu", 2 * COPIED_BYTES, _copy("cpu")),
        ]
    if "cuda" in places and torch.cuda.is_available():
        place, amount = f"cuda:{device}", GPU_GEMM_SIDE**3
        run = torch_gemm(place, precision, GPU_GEMM_SIDE)
        probes += [
            Probe(f"torch.mm {precision}", "matmul", "cuda", amount, run),
            Probe("torch copy", "copy", "cuda", 2 * COPIED_BYTES, _copy(place)),
        ]
    return probes


def torch_gemm(
    place: str = "cpu", precision: str = "fp32", side: int = GEMM_SIDE
) -> Callable[[], object]:
    """Return a function that multiplies two square matrices with PyTorch."""
    dtype = TORCH_TYPES.get(precision, torch.float32)
    a, b = torch.rand(2, side, side, device=place).to(dtype).unbind()
    out = torch.empty_like(a)
    return _waiting(place, lambda: torch.mm(a, b, out=out))


def onnxruntime_gemm(threads: int) -> Callable[[], object]:
    """Return a function that multiplies by a constant matrix with ONNX Runtime."""
    a, b = np.random.default_rng(0).random((2, GEMM_SIDE, GEMM_SIDE), np.float32)
    model = onnx.parser.parse_model(GEMM)
    model.graph.initializer.append(numpy_helper.from_array(b, "b"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(["c"], {"a": a})


def _copy(place: str) -> Callable[[], object]:
    source = torch.zeros(COPIED_BYTES // 4, device=place)
    target = torch.ones_like(source)
    return _waiting(place, lambda: target.copy_(source))


def _waiting(place: str, run: Callable[[], object]) -> Callable[[], object]:
    """Return `run`, followed on a GPU by a wait for it."""
    if place == "cpu":
        return run

    def waited() -> None:
        run()
        torch.cuda.synchronize(place)

    return waited
