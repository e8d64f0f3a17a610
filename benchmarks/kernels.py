"""Registers, shared memory and spills of the fused kernels, and on a GPU their times.

Every kernel is compiled for GPUs that need not be here: Triton writes PTX, and its own ptxas
assembles it and reports what it took.

Example:
    python -m benchmarks.kernels -o benchmarks/results/kernels
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils._pytree import tree_map_only
from torch.utils.benchmark import Timer

from flowsr_export.deployment.interface import DTYPES, Precision
from flowsr_export.graph.axis import Axis, half_pixel_taps, neighbours
from flowsr_export.graph.srflow.level import CHUNK
from flowsr_export.kernels import coupling_operators, operators
from flowsr_export.reports.table import markdown_rows

__all__ = [
    "CAPABILITIES",
    "SHARED",
    "Resources",
    "Time",
    "Variant",
    "calls",
    "markdown",
    "median_ms",
    "resources",
    "times",
    "variants",
]

CAPABILITIES = (80, 89, 90, 120)
# Largest shared memory of a block, bytes (CUDA C++ Programming Guide, compute capabilities).
SHARED = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
OPTIONS = ("num_warps", "num_stages")
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LAYERS, WIDTH, PATCH = 10, 27, 3  # of the published flow
COUPLED = (12, 24, 96)  # channels of the levels of the published SRFlow


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
    out += [_flow(torch.float32, True, width) for width in (3, 48)]
    for dtype in (torch.float16, torch.float32):
        out.append(_hidden(dtype, 64))
        out += [_map(dtype, width, inverse) for width in COUPLED for inverse in (False, True)]
    return out


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


def _hidden(dtype: torch.dtype, width: int) -> Variant:
    from flowsr_export.kernels import coupling

    types = dict.fromkeys(("own", "weight", "bias", "out"), "*fp32")
    types["features"] = f"*{NAMES[dtype]}"
    name = f"coupling hidden {width} {NAMES[dtype]}"
    return Variant(name, coupling.hidden_kernel, types, coupling.settings(width))


def _map(dtype: torch.dtype, width: int, inverse: bool) -> Variant:
    from flowsr_export.kernels import coupling

    types = dict.fromkeys(("x", "net", "weight", "bias", "affine_bias", "out"), "*fp32")
    types["affine"] = f"*{NAMES[dtype]}"
    constants = {"INVERSE": inverse, "HAS_NET": True, **coupling.settings(width)}
    name = f"coupling {'decode' if inverse else 'encode'} {width} {NAMES[dtype]}"
    return Variant(name, coupling.map_kernel, types, constants)


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


@dataclass(frozen=True)
class Time:
    """Median times of an operator on this GPU, ms.

    Attributes:
        operator: Operator and precision.
        kernel: The Triton kernel.
        eager: Its definition, PyTorch's operators one by one.
        compiled: Its definition under torch.compile.
    """

    operator: str
    kernel: float
    eager: float
    compiled: float


def calls(
    dtype: torch.dtype, lr: tuple[int, int], scale: int, hidden: int, device: str
) -> dict[str, tuple[Any, Any, tuple[Any, ...]]]:
    """Return operator, definition and arguments by name, for stand-in values.

    Args:
        dtype: Type of the heavy layers.
        lr: Height and width in low-resolution pixels.
        scale: Output pixels per input pixel.
        hidden: Channels of the Fourier features and of the conditioner.
        device: "cuda", or "cpu" for tests, where operator and definition are the same.
    """
    torch.manual_seed(0)
    row, col = (Axis(n, n * scale, 0, 0, n, -(-n * scale // PATCH), PATCH) for n in lr)
    queries, side = row.patches * col.patches, 32
    maps = torch.zeros(LAYERS + 1, side, side)
    maps[:] = torch.eye(side) * (torch.arange(side) < WIDTH)
    flow_type = torch.float16 if dtype == torch.float16 else torch.float32
    affine = torch.randn(queries, 2 * LAYERS * side).to(dtype)
    pass_ = (
        affine,
        torch.zeros(2 * LAYERS * side),
        maps.to(flow_type),
        torch.zeros(LAYERS + 1, side),
    )
    image = torch.rand(1, 3, *lr)
    taps = [half_pixel_taps(a.pixels(), a.output, a.low_res, 0, a.lr_count) for a in (row, col)]
    pairs = [torch.stack(pair) for tap in taps for pair in (tap.index, tap.weight)]
    first = (
        torch.randn(1, *lr, 2 * hidden).to(dtype),
        *(neighbours(row), neighbours(col)),
        torch.randn(hidden // 2),
        (torch.randn(4 * hidden, hidden) / hidden**0.5).to(dtype),
        torch.zeros(hidden, dtype=dtype),
    )
    decode = (torch.randn(queries, side).to(dtype), *pass_, True, WIDTH, torch.float32)
    encode = (torch.randn(queries, WIDTH), *pass_, False, side, dtype)
    rows: dict[str, tuple[Any, Any, Any]] = {
        **_coupling_calls(dtype, 4 * lr[0] * lr[1], hidden),
        "first product": (_first, operators.define_first_product, first),
        "encode": (operators.flow_pass, operators.define_flow_pass, encode),
        "decode": (operators.flow_pass, operators.define_flow_pass, decode),
        "resize": (
            operators.resize_patches,
            operators.define_resize_patches,
            (image, *pairs, PATCH),
        ),
    }
    return {
        name: (operator, definition, tree_map_only(torch.Tensor, lambda x: x.to(device), args))
        for name, (operator, definition, args) in rows.items()
    }


def _coupling_calls(
    dtype: torch.dtype, cells: int, hidden: int
) -> dict[str, tuple[Any, Any, tuple[Any, ...]]]:
    """Return the operators of SRFlow's couplings at its finest level."""
    width, count = COUPLED[0], CHUNK
    hide = (
        *(torch.randn(cells, hidden), torch.randn(cells, count * hidden).to(dtype), hidden),
        *(torch.randn(hidden, hidden) / hidden**0.5, torch.zeros(hidden)),
    )
    map_ = (
        *(torch.randn(cells, width), torch.randn(cells, width)),
        *(torch.eye(width), torch.zeros(width)),
        torch.randn(cells, 2 * count * width).to(dtype),
        *(torch.zeros(2 * count * width), 2 * width),
    )
    define_hidden = coupling_operators.define_coupling_hidden
    define_map = coupling_operators.define_coupling_map
    return {
        "coupling hidden": (coupling_operators.coupling_hidden, define_hidden, hide),
        "coupling encode": (coupling_operators.coupling_map, define_map, (*map_, False)),
        "coupling decode": (coupling_operators.coupling_map, define_map, (*map_, True)),
    }


def _first(features: Any, row: Any, col: Any, *rest: Any) -> Any:
    return operators.first_product(features, *row, *col, *rest)


def median_ms(function: Any, args: tuple[Any, ...]) -> float:
    """Median time of a call in ms; waits for the GPU, warms up by a call."""
    function(*args)
    timer = Timer("function(*args)", globals={"function": function, "args": args})
    return 1e3 * float(timer.blocked_autorange(min_run_time=0.5).median)


def times(precision: Precision, lr: tuple[int, int], scale: int, hidden: int) -> list[Time]:
    """Measure every operator on this GPU."""
    dtype = DTYPES[precision]
    out = []
    for name, (operator, definition, args) in calls(dtype, lr, scale, hidden, "cuda").items():
        compiled = torch.compile(definition)
        figures = (median_ms(function, args) for function in (operator, definition, compiled))
        out.append(Time(f"{name} {precision}", *figures))
    return out


def markdown(rows: Sequence[Resources], measured: Sequence[Time], device: str) -> str:
    """Return the tables."""
    import triton

    lines = [
        "# Fused kernels",
        "",
        f"Compiled by Triton {triton.__version__}; registers and spills as its ptxas reports.",
        "",
        *markdown_rows(
            ["kernel", "compute capability", "threads", "registers", "shared, B", "spilled, B"],
            [
                [
                    r.kernel,
                    r.capability,
                    *map(str, (r.threads, r.registers, r.shared, r.spilled)),
                ]
                for r in rows
            ],
        ),
        "",
    ]
    if not measured:
        return "\n".join([*lines, "No GPU: nothing was run, no time was measured.", ""])
    cells = [
        [t.operator, *(f"{x:.3f}" for x in (t.kernel, t.eager, t.compiled))] for t in measured
    ]
    columns = ["operator", "kernel, ms", "PyTorch, ms", "torch.compile, ms"]
    return "\n".join(
        [*lines, f"Median times on {device}:", "", *markdown_rows(columns, cells), ""]
    )


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write OUTPUT.md and .json."
)
@click.option("--lr-size", default="480x270", show_default=True, help="Width x height.")
@click.option("--scale", type=int, default=4, show_default=True, help="Whole scale.")
@click.option("--hidden", type=int, default=256, show_default=True, help="Hidden channels.")
@click.option("--precision", type=click.Choice(list(DTYPES)), default="fp16", show_default=True)
def main(
    output: Path | None, lr_size: str, scale: int, hidden: int, precision: Precision
) -> None:
    """Compile every kernel for every GPU; with a GPU, measure the operators too."""
    rows = [resources(variant, cc) for variant in variants() for cc in CAPABILITIES]
    width, height = (int(side) for side in lr_size.split("x"))
    has_gpu = torch.cuda.is_available()
    measured = times(precision, (height, width), scale, hidden) if has_gpu else []
    text = markdown(rows, measured, torch.cuda.get_device_name() if has_gpu else "")
    click.echo(text, nl=False)
    if output is not None:
        output.with_suffix(".md").write_text(text)
        plain = {"kernels": [asdict(r) for r in rows], "times": [asdict(t) for t in measured]}
        output.with_suffix(".json").write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
