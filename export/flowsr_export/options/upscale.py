"""Options of the `upscale` command, packed into what the library takes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from flowsr_export.options.session import (
    force_option,
    parse_memory,
    scale_type,
    session_options,
    size_type,
)

if TYPE_CHECKING:
    from flowsr_runtime.pictures.depth import Depth

__all__ = ["cluster_options", "machine_options", "parse_devices", "request_options"]

Command = Callable[..., Any]


def parse_devices(value: str) -> tuple[int, ...]:
    """Read indices of GPUs joined by commas, as in `0,1`.

    Args:
        value: What was typed.

    Returns:
        The indices, from 0.
    """
    if re.fullmatch(r"\d+(,\d+)*", value.strip()) is None:
        raise click.BadParameter(f"{value!r} is not as in 0,1")
    return tuple(map(int, value.split(",")))


DEPTHS: dict[str, Depth] = {"8": 8, "16": 16, "float": "float"}

REQUEST = (
    click.option(
        "--scale",
        type=scale_type,
        metavar="S|SxS",
        help="Times larger, at least 1; as in 2.7x3.6 for width and height apart. A bundle of "
        "one scale needs neither this nor --size.",
    ),
    click.option(
        "--size",
        type=size_type,
        metavar="WxH",
        help="Output width and height in pixels, as in 1920x1080.",
    ),
    click.option(
        "--resample",
        is_flag=True,
        help="Let a bundle of one scale reach any other: a Lanczos filter after the model.",
    ),
    click.option(
        "--truncate",
        is_flag=True,
        help="Cut values down to 8 bits, as SRFlow's released script does; else they are "
        "rounded.",
    ),
    click.option(
        "--depth",
        type=click.Choice([*DEPTHS]),
        show_default="that of each picture",
        help="Bits per channel to write; float is 32-bit TIFF.",
    ),
    click.option(
        "--temperature", type=float, help="Of the noise; for bundles without a prior."
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Of the noise."),
    force_option,
)
MACHINE = (
    session_options,
    click.option(
        "--devices",
        type=parse_devices,
        metavar="N,N...",
        help="GPUs to use at the same time, in place of --device.",
    ),
    click.option(
        "--max-memory",
        type=parse_memory,
        metavar="BYTES",
        show_default="1G, or what the bundle states, for one run of the model",
        help="Memory that the process may take in all, as in 2G; on a GPU what one run may "
        "take of it. It decides the tiles, and pictures follow each other.",
    ),
    click.option(
        "--halo",
        type=click.Choice(["default", "exact"]),
        default="default",
        show_default=True,
        help="Overlap of tiles: small, or as large as the model's receptive field, which "
        "gives the whole picture's values.",
    ),
)
CLUSTER = (
    click.option(
        "--ray",
        "on_ray",
        is_flag=True,
        help="Share the pictures among the workers of a Ray cluster, or of this machine where "
        "there is none; outputs that are there are skipped.",
    ),
    click.option(
        "--ray-address",
        metavar="HOST:PORT",
        help="Of the cluster.  [default: the one of RAY_ADDRESS or of this machine]",
    ),
    click.option(
        "--ray-workers",
        type=click.IntRange(min=1),
        show_default="one for each GPU, or for each --threads cores",
        help="Processes that enlarge pictures.",
    ),
)


def request_options(command: Command) -> Command:
    """Add the options that say what is asked; the command gets them as `request`."""

    @functools.wraps(command)
    def packed(
        *,
        scale: str | tuple[str, str] | None,
        size: tuple[int, int] | None,
        resample: bool,
        truncate: bool,
        depth: str | None,
        temperature: float | None,
        seed: int,
        force: bool,
        **others: Any,
    ) -> Any:
        from flowsr_export.upscale.jobs import Request

        bits = DEPTHS.get(depth or "")
        request = Request(scale, size, resample, truncate, seed, temperature, force, bits)
        return command(request=request, **others)

    return _with_options(packed, REQUEST)


def machine_options(command: Command) -> Command:
    """Add the options that say on what; the command gets them as `settings` and the rest."""
    return _with_options(command, MACHINE)


def cluster_options(command: Command) -> Command:
    """Add the options of Ray; the command gets them as `cluster`, None without --ray."""

    @functools.wraps(command)
    def packed(
        *, on_ray: bool, ray_address: str | None, ray_workers: int | None, **others: Any
    ) -> Any:
        from flowsr_export.upscale.ray import Cluster

        if not on_ray and (ray_address is not None or ray_workers is not None):
            raise click.UsageError("--ray-address and --ray-workers need --ray")
        cluster = Cluster(ray_address, ray_workers) if on_ray else None
        return command(cluster=cluster, **others)

    return _with_options(packed, CLUSTER)


def _with_options(
    command: Command, options: tuple[Callable[[Command], Command], ...]
) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
