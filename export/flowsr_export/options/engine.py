"""Options of the engine commands, packed into what the library takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flowsr_export.options.session import parse_memory, scale_type, size_type

__all__ = ["builder_options", "flavour_option", "parse_shapes", "size_options"]

Command = Callable[..., Any]

flavour_option = click.option(
    "--flavour",
    type=click.Choice(["auto", "tensorrt", "tensorrt-rtx"]),
    default="auto",
    show_default=True,
    help="Library: tensorrt where it is installed and there is a GPU, else tensorrt-rtx.",
)

SIZES = (
    click.option(
        "--picture",
        "pictures",
        multiple=True,
        type=size_type,
        metavar="WxH",
        help="Size of a picture to enlarge; may be repeated.",
    ),
    click.option(
        "--size",
        "outputs",
        multiple=True,
        type=size_type,
        metavar="WxH",
        help="Size of an enlarged picture; may be repeated.",
    ),
    click.option(
        "--scale",
        "scales",
        multiple=True,
        type=scale_type,
        metavar="S|SxS",
        show_default="the bundle's own, or 4",
        help="Factor, or one each for width and height; may be repeated.",
    ),
    click.option(
        "--memory-budget",
        "budget",
        type=parse_memory,
        metavar="BYTES",
        show_default="what the bundle states, or 1G",
        help="GPU memory for one run, --max-memory of upscale: pictures that need more are "
        "tiled, and the tiles are covered.",
    ),
    click.option(
        "--halo",
        type=click.Choice(["default", "exact"]),
        default="default",
        show_default=True,
        help="As for upscale: the overlap of the tiles.",
    ),
)
SHAPES = tuple(
    click.option(
        f"--{bound}-shapes",
        multiple=True,
        metavar="INPUT:SHAPE,…",
        help=f"{about} shapes of a profile in place of sizes, as trtexec takes them: "
        "input:1x3x64x64. For geometry give the values, or leave it out for --scale.",
    )
    for bound, about in (("min", "Smallest"), ("opt", "Best"), ("max", "Largest"))
)
SETTINGS = (
    click.option(
        "--compute-capability",
        "compute_capabilities",
        multiple=True,
        metavar="N.N",
        help="GPU to build for without having it, as in 8.9; may be repeated (tensorrt-rtx). "
        "[default: 8.0 and above; with tensorrt the GPU that is here]",
    ),
    click.option(
        "--workspace",
        type=parse_memory,
        metavar="BYTES",
        show_default="no limit",
        help="Memory that one kernel may take beside the activations, as in 4G.",
    ),
    click.option(
        "--builder-optimization-level",
        "optimization_level",
        type=click.IntRange(0, 5),
        default=3,
        show_default=True,
        help="0 builds fastest, 5 searches longest.",
    ),
    click.option(
        "--tf32",
        is_flag=True,
        help="Let float32 products round to 10 bits, faster and less exact.",
    ),
    click.option(
        "--timing-cache",
        type=click.Path(path_type=Path),
        help="File of measured kernels, read and written (tensorrt).",
    ),
    click.option(
        "--version-compatible",
        is_flag=True,
        help="Let later versions of the same major load the engine (tensorrt).",
    ),
    click.option(
        "--hardware-compatibility-level",
        "hardware_compatibility",
        type=click.Choice(["none", "ampere-plus", "same-compute-capability"]),
        default="none",
        show_default=True,
        help="Other GPUs that the engine runs on (tensorrt).",
    ),
)


def size_options(command: Command) -> Command:
    """Add the options that say what an engine takes; the command gets them as `sizes`."""

    @functools.wraps(command)
    def packed(
        *,
        pictures: tuple[tuple[int, int], ...],
        outputs: tuple[tuple[int, int], ...],
        scales: tuple[str | tuple[str, str], ...],
        budget: int | None,
        halo: Any,
        min_shapes: tuple[str, ...],
        opt_shapes: tuple[str, ...],
        max_shapes: tuple[str, ...],
        **others: Any,
    ) -> Any:
        from flowsr_export.engine.build import SizeSpec

        explicit = _explicit(min_shapes, opt_shapes, max_shapes)
        sizes = SizeSpec(pictures, outputs, scales, budget, halo, explicit)
        return command(sizes=sizes, **others)

    return _with(packed, (*SIZES, *SHAPES))


def builder_options(command: Command) -> Command:
    """Add the options that say how to build; the command gets them as `settings`."""

    @functools.wraps(command)
    def packed(
        *,
        compute_capabilities: tuple[str, ...],
        workspace: int | None,
        optimization_level: int,
        tf32: bool,
        timing_cache: Path | None,
        version_compatible: bool,
        hardware_compatibility: str,
        **others: Any,
    ) -> Any:
        from flowsr_export.engine.builder import Settings

        settings = Settings(
            workspace=workspace,
            optimization_level=optimization_level,
            tf32=tf32,
            version_compatible=version_compatible,
            hardware_compatibility=hardware_compatibility,
            compute_capabilities=compute_capabilities,
            timing_cache=timing_cache,
        )
        return command(settings=settings, **others)

    return _with(packed, SETTINGS)


def parse_shapes(value: str) -> dict[str, tuple[int, ...]]:
    """Read shapes as trtexec takes them, `input:1x3x64x64,geometry:64x64x…`.

    Args:
        value: What was typed; for `geometry` the numbers are its values.

    Returns:
        Numbers by input.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for part in value.split(","):
        name, _, numbers = part.strip().rpartition(":")
        sides = numbers.split("x")
        if not name or not all(side.isdecimal() for side in sides):
            raise click.BadParameter(f"{part.strip()!r} is not as in input:1x3x64x64")
        if name in shapes:
            raise click.BadParameter(f"{name} is there twice in {value!r}")
        shapes[name] = tuple(int(side) for side in sides)
    return shapes


def _explicit(
    least: tuple[str, ...], best: tuple[str, ...], most: tuple[str, ...]
) -> tuple[tuple[Any, Any, Any], ...]:
    """One triple a profile; a bound that is left out altogether is the best shape."""
    if (least or most) and not best:
        raise click.UsageError("--min-shapes and --max-shapes need --opt-shapes")
    least, most = least or best, most or best
    if not len(least) == len(best) == len(most):
        raise click.UsageError(
            "--min-shapes, --opt-shapes and --max-shapes must be given as often as each other, "
            f"got {len(least)}, {len(best)} and {len(most)}"
        )
    triples = zip(least, best, most, strict=True)
    return tuple((parse_shapes(a), parse_shapes(b), parse_shapes(c)) for a, b, c in triples)


def _with(command: Command, options: tuple[Command, ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
