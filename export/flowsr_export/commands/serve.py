"""The `serve` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from flowsr_export.options.session import parse_memory, session_options

if TYPE_CHECKING:
    from flowsr_runtime import SessionSettings

__all__ = ["command"]


@click.command("serve")
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0 for all of this machine's.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for one that is free.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pictures that are computed at once; with several, give each its share of --threads.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Pictures that wait; one more is refused with 429.",
)
@click.option(
    "--max-body",
    type=parse_memory,
    default="32M",
    show_default=True,
    metavar="BYTES",
    help="Largest body of a request.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    default=16_000_000,
    show_default=True,
    help="Pixels of the largest picture.",
)
@click.option(
    "--max-output-pixels",
    type=click.IntRange(min=1),
    default=64_000_000,
    show_default=True,
    help="Pixels of the largest result.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="From a whole request to its answer; after that the work is cancelled.",
)
@click.option(
    "--body-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="In which a body has to arrive.",
)
@click.option("--access-log", is_flag=True, help="Write a line for each request on stdout.")
@session_options
@click.option(
    "--memory-budget",
    type=parse_memory,
    metavar="BYTES",
    show_default="what the bundle states, or 1G",
    help="Memory for one run of the model; a picture that needs more is tiled.",
)
@click.option(
    "--halo",
    type=click.Choice(["default", "exact"]),
    default="default",
    show_default=True,
    help="Overlap of tiles: small, or as large as the model's receptive field.",
)
def command(
    bundle: Path | None,
    host: str,
    port: int,
    jobs: int,
    queue: int,
    max_body: int,
    max_pixels: int,
    max_output_pixels: int,
    timeout: float,
    body_timeout: float,
    access_log: bool,
    settings: SessionSettings,
    memory_budget: int | None,
    halo: Literal["default", "exact"],
) -> None:
    """Serve BUNDLE, or the built-in model, over HTTP on this machine.

    POST a picture to /upscale?scale=4 and get the result; open / in a browser to try it.
    /healthz, /readyz and /metrics are for whoever watches it. There is no authentication: it
    listens on the loopback address alone unless --host says otherwise.

    \b
    Example:
      flowsr-export serve --port 8000
      curl --data-binary @photo.jpg 'http://127.0.0.1:8000/upscale?scale=4' -o large.png
    """
    from flowsr_export.serve.app import create_app
    from flowsr_export.serve.http_server import listen, make_server, url_of
    from flowsr_export.serve.limits import LOOPBACK, ServeLimits, is_loopback
    from flowsr_export.serve.niceness import lower_priority, run_at_low_priority
    from flowsr_runtime import Bundle, Upscaler, embedded_bundle
    from flowsr_runtime.upscaling.pool import UpscalerPool

    loopback = is_loopback(host)
    limits = ServeLimits(
        places=jobs + queue,
        max_body=max_body,
        max_pixels=max_pixels,
        max_output_pixels=max_output_pixels,
        timeout=timeout,
        body_timeout=body_timeout,
        hosts=(*LOOPBACK, host) if loopback else None,
    )
    opened = Bundle.open(bundle or embedded_bundle())
    listener = listen(host, port)
    if not loopback:
        _warn(host)
    session = run_at_low_priority(lambda: settings.open(opened))
    runs_on = f"{session.backend} {session.provider}, {settings.precision}"
    upscaler = Upscaler(opened, session, memory_budget=memory_budget, halo=halo)
    pool = UpscalerPool(upscaler, jobs, limits.places, begin=lower_priority)
    with listener, upscaler, pool:
        server = make_server(
            create_app(pool, limits, runs_on=runs_on),
            access_log=access_log,
            started=lambda: click.echo(f"serving {opened.path} on {url_of(listener)}"),
        )
        server.run([listener])


def _warn(host: str) -> None:
    """Say once what a server that others reach means."""
    click.echo(
        f"flowsr-export: {host} can be reached from other machines, and there is no "
        "authentication: whoever reaches it can use it",
        err=True,
    )
