"""Registers, shared memory and spills of the fused kernels, and on a GPU their times.

Every kernel is compiled for GPUs that need not be here: Triton writes PTX, and its own ptxas
assembles it and reports what it took.

Example:
    python -m benchmarks.kernels -o benchmarks/results/kernels
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["CAPABILITIES", "Resources", "SHARED", "Variant", "resources", "variants"]

CAPABILITIES = (80, 89, 90, 120)
# Largest shared memory of a block, bytes (CUDA C++ Programming Guide, compute capabilities).
SHARED = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
OPTIONS = ("num_warps", "num_stages")
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
LAYERS = 10


@dataclass(frozen=True)
class Variant:
    """A kernel with the constants that a network gives it.

    Attributes:
        name: Kernel and precision.
        kernel: Triton's function.
        types: Type of each argument.
        constants: Constants and options.
    """

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]


@dataclass(frozen=True)
class Resources:
    """Demand of a kernel compiled for a GPU.

    Attributes:
        kernel: Kernel and precision.
        capability: Compute capability.
        registers: Registers of a thread.
        shared: Shared memory of a block, bytes.
        spilled: Bytes of registers that a thread stores to memory and loads again.
        threads: Threads of a block.
    """

    kernel: str
    capability: str
    registers: int
    shared: int
    spilled: int
    threads: int


def variants() -> list[Variant]:
    """Return every kernel for the published and the built-in sizes in each precision."""
    out = [_resize()]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        out += [_first_product(dtype, hidden) for hidden in (256, 96)]
        out += [_flow(dtype, inverse, 27) for inverse in (False, True)]
    return [*out, *(_flow(torch.float32, True, width) for width in (3, 48))]


def _first_product(dtype: torch.dtype, hidden: int) -> Variant:
    from flowsr_export.kernels import query

    heavy = dict.fromkeys(("features", "weight", "bias", "out"), f"*{NAMES[dtype]}")
    axes = {
        f"{axis}_{name}": kind
        for axis in ("row", "col")
        for name, kind in (("index", "*i64"), ("offset", "*fp32"), ("weight", "*fp32"))
    }
    types = {**heavy, **axes, "phase": "*fp32"}
    constants = query.settings(dtype, hidden // 2, hidden)
    name = f"first product {hidden} {NAMES[dtype]}"
    return Variant(name, query.first_product_kernel, types, constants)


def _flow(dtype: torch.dtype, inverse: bool, width: int) -> Variant:
    from flowsr_export.kernels import flow

    half = f"*{NAMES[dtype]}"
    maps = torch.float16 if dtype == torch.float16 else torch.float32
    side = max(16, 1 << (width - 1).bit_length())
    latent = -(-width // 16) * 16
    ends = (latent, width) if inverse else (width, latent)
    types = {
        "z": half if inverse else "*fp32",
        "affine": half,
        "affine_bias": "*fp32",
        "maps": f"*{NAMES[maps]}",
        "offsets": "*fp32",
        "out": "*fp32" if inverse else half,
    }
    constants = {
        "LAYERS": LAYERS,
        "IN": ends[0],
        "OUT": ends[1],
        "INVERSE": inverse,
        **flow.settings(maps, side),
    }
    name = f"flow {'decode' if inverse else 'encode'} {width} {NAMES[dtype]}"
    return Variant(name, flow.flow_kernel, types, constants)


def _resize() -> Variant:
    from flowsr_export.kernels import resize

    types = dict.fromkeys(("image", "row_weight", "col_weight", "out"), "*fp32")
    types |= dict.fromkeys(("row_index", "col_index"), "*i64")
    constants = {"CHANNELS": 3, "PATCH": 3, **resize.settings()}
    return Variant("resize fp32", resize.resize_kernel, types, constants)


def resources(variant: Variant, capability: int) -> Resources:
    """Compile a kernel for a compute capability, 80 for 8.0; no GPU is needed.

    Raises:
        RuntimeError: If ptxas does not report what it took.
    """
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {k: v for k, v in variant.constants.items() if k not in OPTIONS}
    options = {k: v for k, v in variant.constants.items() if k in OPTIONS}
    names = variant.kernel.arg_names
    types = {n: "constexpr" if n in constants else variant.types.get(n, "i32") for n in names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n][0] == "*"
    }
    report = io.StringIO()
    with knobs.compilation.scope(), knobs.nvidia.scope(), redirect_stdout(report):
        knobs.compilation.always_compile = True  # a kernel from the cache has no report
        knobs.nvidia.dump_ptxas_log = True
        compiled = triton.compile(
            ASTSource(variant.kernel, types, constants, aligned),
            target=GPUTarget("cuda", capability, 32),
            options=options,
        )
    registers, spilled = _read_report(report.getvalue())
    return Resources(
        kernel=variant.name,
        capability=f"{capability // 10}.{capability % 10}",
        registers=registers,
        shared=compiled.metadata.shared,
        spilled=spilled,
        threads=32 * compiled.metadata.num_warps,
    )


def _read_report(report: str) -> tuple[int, int]:
    """Registers and spilled bytes of a thread from the report of `ptxas -v`."""
    registers = re.findall(r"Used (\d+) registers", report)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    if len(registers) != 1 or len(spills) < 2:
        raise RuntimeError(f"ptxas must report registers and spills, got {report.strip()!r}")
    return int(registers[0]), sum(int(n) for n in spills)
