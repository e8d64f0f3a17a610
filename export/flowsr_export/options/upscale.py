"""Options of the `upscale` command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.command import Choice
from flowsr_export.options.shared import (
    FILE,
    POSITIVE,
    flag,
    force_option,
    halo_option,
    packs,
    seed_option,
    value_option,
)
from flowsr_export.options.values import (
    FiniteRange,
    WholeRange,
    color_type,
    format_type,
    parse_devices,
    parse_memory,
    parse_scales,
    sides_type,
)

if TYPE_CHECKING:
    from flowsr_export.upscale.jobs import Request
    from flowsr_export.upscale.ray import Cluster
    from flowsr_runtime.pictures.depth import Depth

__all__ = ["cluster_options", "machine_options", "request_options"]

DEPTHS: dict[str, Depth] = {"8": 8, "16": 16, "float": "float"}
FITS = ("inside", "cover", "exact")


def _request(scale: tuple[Any, ...] | None, **fields: Any) -> Request:
    """Return the request, with one scale or several."""
    from flowsr_export.upscale.jobs import Request

    several = scale is not None and len(scale) > 1
    one = None if several or scale is None else scale[0]
    return Request(scale=one, scales=scale if several and scale else (), **fields)


request_options = packs(
    _request,
    value_option(
        parse_scales,
        "--scale",
        help="Upscaling factor, at least 1; 2.7x3.6 sets width and height separately. Several, "
        "joined by commas, write an image each and share the encoder.",
        show_default="the bundle's own, or 4",
    ),
    value_option(
        sides_type,
        "--size",
        help="Output width and height in pixels, such as 1920x1080; 1920x and x1080 keep the "
        "shape of the image.",
    ),
    click.option("--width", type=POSITIVE, help="Output width in pixels, instead of --size."),
    click.option("--height", type=POSITIVE, help="Output height in pixels, instead of --size."),
    click.option(
        "--fit",
        type=Choice([*FITS]),
        show_default="inside for folders and several images, exact for one image",
        help="Keep the shape of an image inside --size or covering it, or stretch it to the "
        "exact size.",
    ),
    flag(
        "--resample",
        "Resize the result of a fixed-scale bundle to another scale with a Lanczos filter.",
    ),
    flag(
        "--truncate",
        "Truncate values to 8 bits as SRFlow's released script does, instead of rounding.",
    ),
    click.option(
        "--depth",
        type=Choice([*DEPTHS]),
        callback=lambda context, option, value: DEPTHS.get(value),
        show_default="the depth of the input",
        help="Bits per channel of the output; float writes 32-bit TIFF.",
    ),
    click.option(
        "--temperature",
        type=FiniteRange(min=0),
        help="Standard deviation of the noise, for bundles without a learned prior or with "
        "graphs of latents.",
    ),
    click.option(
        "--temperature-map",
        type=FILE,
        help="Gray image over the whole picture that scales the temperature: white keeps it, "
        "black is without noise.",
    ),
    click.option(
        "--prior-mix",
        type=FiniteRange(min=0),
        show_default="0 with --temperature, else 1",
        help="Factor of the learned prior's latent, to which the noise is added; needs graphs "
        "of latents.",
    ),
    click.option(
        "--samples",
        type=POSITIVE,
        default=1,
        show_default=True,
        help="Number of images to sample, each with the next seed, which its name states.",
    ),
    seed_option("Random seed for the noise."),
    force_option,
    flag("--skip-existing", "Keep existing outputs, and make the missing ones."),
    value_option(
        format_type,
        "--format",
        help="Format of the outputs: png, jpg, webp, tiff, avif or bmp.",
        show_default="png in folders, else that of the output's name",
    ),
    click.option(
        "--quality",
        type=WholeRange(1, 100),
        show_default="95 for JPEG, lossless for WebP, 90 for AVIF",
        help="Quality of JPEG, WebP and AVIF.",
    ),
    value_option(
        color_type,
        "--background",
        help="Color behind transparent pixels, such as white or #ff8800, where the output's "
        "format holds no alpha.",
    ),
    flag("--recursive", "Search the folders in folders too; the output has the same folders."),
    flag("--all-frames", "Upscale all frames of an animation, into PNG or WebP."),
    name="request",
)


machine_options = packs(
    dict,
    value_option(
        parse_devices, "--devices", help="GPU indices to use concurrently, instead of --device."
    ),
    value_option(
        parse_memory,
        "--max-memory",
        "max_memory",
        old=["--memory-budget"],
        help="Memory limit of the process, such as 2G; on a GPU, of one run. Larger images are "
        "tiled, and images are processed one after another.",
        show_default="the bundle's own limit for one run, or 1G, or 16G with an engine",
    ),
    halo_option,
    name="machine",
    takes=["settings"],
)


def _cluster(on_ray: bool, ray_address: str | None, ray_workers: int | None) -> Cluster | None:
    """Return the cluster, None without `--ray`."""
    from flowsr_export.upscale.ray import Cluster

    if not on_ray and (ray_address is not None or ray_workers is not None):
        raise click.UsageError("--ray-address and --ray-workers need --ray")
    return Cluster(ray_address, ray_workers) if on_ray else None


cluster_options = packs(
    _cluster,
    flag(
        "--ray",
        "Distribute the images over a Ray cluster, or over local processes without one. "
        "Existing outputs are skipped.",
        "on_ray",
    ),
    click.option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Address of the Ray cluster.  [default: RAY_ADDRESS, or this machine]",
    ),
    click.option(
        "--ray-workers",
        type=POSITIVE,
        show_default="one per GPU, or per --threads cores",
        help="Number of worker processes.",
    ),
    name="cluster",
)
