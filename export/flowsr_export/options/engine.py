"""Options of the commands that build and inspect engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.command import Choice, Option
from flowsr_export.options.shared import (
    FILE,
    choice_option,
    flag,
    halo_option,
    number_option,
    packs,
    scales_option,
    value_option,
)
from flowsr_export.options.values import (
    WholeRange,
    parse_capability,
    parse_gpu,
    parse_memory,
    parse_shapes,
    size_type,
)

if TYPE_CHECKING:
    from flowsr_export.engine.build import SizeSpec

__all__ = ["builder_options", "flavour_option", "gpu_option", "size_options"]

flavour_option = click.option(
    "--flavor",
    "flavour",
    cls=Option,
    old=["--flavour"],
    type=Choice(["auto", "tensorrt", "tensorrt-rtx", "inductor"]),
    default="auto",
    show_default=True,
    callback=lambda context, option, value: value.replace("-", "_"),
    help="Library; auto is tensorrt if it is installed and there is a GPU, else tensorrt-rtx. "
    "inductor is PyTorch's compiler, for every CUDA GPU and for CPUs.",
)


gpu_option = value_option(
    parse_gpu,
    "--gpu",
    show_default="one of the engine's compute capability",
    help="GPU that the least times of an engine are printed for, such as rtx-4090.",
)


def _sizes(
    min_shapes: tuple[str, ...],
    opt_shapes: tuple[str, ...],
    max_shapes: tuple[str, ...],
    **fields: Any,
) -> SizeSpec:
    """Combine sizes and explicit shapes; a bound that is left out is the optimal shape."""
    from flowsr_export.engine.build import SizeSpec

    if (min_shapes or max_shapes) and not opt_shapes:
        raise click.UsageError("--min-shapes and --max-shapes need --opt-shapes")
    bounds = (min_shapes or opt_shapes, opt_shapes, max_shapes or opt_shapes)
    counts = [len(bound) for bound in bounds]
    if len(set(counts)) > 1:
        times = ", ".join(map(str, counts))
        raise click.UsageError(f"bounds of shapes must be given equally often, got {times}")
    least, best, most = ([parse_shapes(text) for text in bound] for bound in bounds)
    explicit = tuple(zip(least, best, most, strict=True))
    return SizeSpec(explicit=explicit, **fields)


size_options = packs(
    _sizes,
    value_option(
        size_type,
        "--lr-size",
        "pictures",
        old=["--picture"],
        help="Size of the largest input image; may be repeated.",
        multiple=True,
    ),
    value_option(
        size_type,
        "--size",
        "outputs",
        help="Size of the largest output image; may be repeated.",
        multiple=True,
    ),
    scales_option("the bundle's own, or 4"),
    flag("--exact", "Take images of these sizes only, not every image from 16 pixels a side."),
    value_option(
        parse_memory,
        "--max-memory",
        "memory_budget",
        old=["--memory-budget"],
        help="Memory limit for one run of the model; larger images are tiled.",
        show_default="16G, which takes 1920x1080 whole",
    ),
    halo_option,
    *(
        click.option(
            f"--{bound}-shapes",
            multiple=True,
            metavar="INPUT:SHAPE,…",
            help=f"{title} shapes of one profile, as for trtexec: input:1x3x64x64. Replaces "
            "sizes; geometry takes values and may be left out with --scale.",
        )
        for bound, title in (("min", "Minimum"), ("opt", "Optimal"), ("max", "Maximum"))
    ),
    name="sizes",
)

builder_options = packs(
    "flowsr_export.engine.builder:Settings",
    value_option(
        parse_capability,
        "--compute-capability",
        "compute_capabilities",
        multiple=True,
        help="Compute capability of a GPU to build for, such as 8.9; may be repeated "
        "(tensorrt-rtx).  [default: 8.0 and above; with tensorrt this machine's GPU]",
    ),
    value_option(
        parse_memory,
        "--workspace",
        help="Scratch memory limit of one kernel, such as 4G.",
        show_default="no limit",
    ),
    number_option(
        "--builder-optimization-level",
        WholeRange(0, 5),
        3,
        "Optimization level from 0, the fastest build, to 5, the longest search.",
        argument="optimization_level",
    ),
    flag("--tf32", "Allow TF32 in float32 products: faster, with a 10-bit mantissa."),
    click.option(
        "--max-aux-streams",
        type=WholeRange(min=0),
        show_default="the library's choice",
        help="Maximum number of streams on which layers run beside the main one.",
    ),
    click.option(
        "--tiling-optimization-level",
        type=Choice(["none", "fast", "moderate", "full"]),
        show_default="the library's choice",
        help="Effort of the search for layers that hand over their results in tiles, through "
        "the cache.",
    ),
    click.option(
        "--timing-cache", type=FILE, help="Timing cache file, read and updated (tensorrt)."
    ),
    flag(
        "--version-compatible",
        "Build an engine that later versions of the same major release load (tensorrt).",
    ),
    choice_option(
        "--hardware-compatibility-level",
        ["none", "ampere-plus", "same-compute-capability"],
        "GPUs that the engine runs on besides the one that builds it (tensorrt).",
        argument="hardware_compatibility",
    ),
)
