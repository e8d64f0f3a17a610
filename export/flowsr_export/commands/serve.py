"""The `serve` command."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flowsr_export.options.choice import say_choice
from flowsr_export.options.command import Command
from flowsr_export.options.session import session_options
from flowsr_export.options.shared import (
    POSITIVE,
    bundle_argument,
    flag,
    halo_option,
    json_option,
    memory_budget_option,
    number_option,
    open_bundle,
    packs,
    value_option,
)
from flowsr_export.options.speech import note
from flowsr_export.options.values import FiniteRange, WholeRange, parse_memory

if TYPE_CHECKING:
    from flowsr_export.serve.admission import ServeLimits
    from flowsr_runtime import SessionSettings

__all__ = ["command"]

SECONDS = FiniteRange(min=0, min_open=True)


def _limits(
    jobs: int, queue: int, host: str, allow_host: tuple[str, ...], **fields: Any
) -> tuple[int, str, ServeLimits]:
    """Return the number of jobs, the host and the limits of a server."""
    from flowsr_export.serve.admission import LOOPBACK, ServeLimits, is_loopback

    names = tuple(name.lower() for name in allow_host)
    hosts = (*LOOPBACK, host, *names) if is_loopback(host) or names else None
    return jobs, host, ServeLimits(places=jobs + queue, hosts=hosts, **fields)


@click.command("serve", cls=Command)
@bundle_argument
@packs(
    _limits,
    click.option(
        "--host",
        default="127.0.0.1",
        show_default=True,
        help="Address to listen on; 0.0.0.0 listens on all addresses of this machine.",
    ),
    click.option(
        "--allow-host",
        multiple=True,
        metavar="NAME",
        help="Host name that requests may address, besides the loopback's; repeatable.",
    ),
    number_option(
        "--jobs",
        POSITIVE,
        1,
        "Number of images to process concurrently; each job uses --threads CPU threads.",
    ),
    number_option(
        "--queue",
        WholeRange(min=0),
        16,
        "Number of waiting images; further requests get status 429.",
    ),
    value_option(
        parse_memory, "--max-body", help="Maximum size of a request body.", default="32M"
    ),
    number_option("--max-pixels", POSITIVE, 16_000_000, "Maximum number of input pixels."),
    number_option(
        "--max-output-pixels", POSITIVE, 64_000_000, "Maximum number of output pixels."
    ),
    number_option(
        "--timeout",
        SECONDS,
        30.0,
        "Time limit from the complete request to the response, in seconds.",
        metavar="SECONDS",
    ),
    number_option(
        "--body-timeout",
        SECONDS,
        10.0,
        "Time limit for receiving the request body, in seconds.",
        metavar="SECONDS",
    ),
    name="limited",
)
@number_option("--port", WholeRange(0, 65535), 8000, "Port to listen on; 0 picks a free port.")
@flag("--access-log", "Write one line per request to stdout.")
@session_options
@memory_budget_option
@value_option(
    parse_memory,
    "--feature-cache",
    help="Memory for the features of recent images, such as 256M: a request with another scale "
    "of such an image skips the encoder.",
    show_default="none",
)
@halo_option
@json_option
def command(
    bundle: Path | None,
    limited: tuple[int, str, ServeLimits],
    port: int,
    access_log: bool,
    settings: SessionSettings,
    memory_budget: int | None,
    feature_cache: int | None,
    halo: Literal["default", "exact"],
    as_json: bool,
) -> None:
    """Serve BUNDLE, or the built-in model, over HTTP.

    POST an image to /upscale?scale=4 to get the result, or open / in a browser. /healthz,
    /readyz and /metrics are for monitoring. There is no authentication: the server listens
    on the loopback address unless --host says otherwise.

    \b
    Example:
      flowsr-export serve --port 8000
      curl --data-binary @photo.jpg 'http://127.0.0.1:8000/upscale?scale=4' -o large.png
    """
    from flowsr_export.serve.app import create_app
    from flowsr_export.serve.http_server import listen, make_server, url_of
    from flowsr_export.serve.niceness import lower_priority, run_at_low_priority
    from flowsr_runtime import Upscaler
    from flowsr_runtime.tiling.cgroups import memory_left
    from flowsr_runtime.tiling.memory import ON_HOST
    from flowsr_runtime.upscaling.pool import UpscalerPool

    jobs, host, limits = limited
    opened = open_bundle(bundle)
    with ExitStack() as stack:
        listener = stack.enter_context(listen(host, port))
        if limits.hosts is None:
            note(
                f"{host} is reachable from other machines, and the server has no "
                "authentication: anyone who can reach it can use it"
            )
        session, choice = run_at_low_priority(lambda: settings.choose(opened))
        say_choice(choice, settings)
        runs_on = f"{session.backend} {session.provider}, {choice.settings.precision}"
        upscaler = Upscaler(
            opened,
            session,
            memory_budget=memory_budget,
            halo=halo,
            choice=choice,
            feature_cache=feature_cache or 0,
        )
        if feature_cache and upscaler.why_not_shared is not None:
            note(upscaler.why_not_shared)
        left, needed = memory_left(), jobs * upscaler.memory_budget
        if session.provider in ON_HOST and left is not None and needed > left:
            note(
                f"{jobs} jobs may take {needed >> 20} MiB, and this container has "
                f"{left >> 20} MiB left; give fewer --jobs or less --max-memory"
            )
        pool = UpscalerPool(upscaler, jobs, limits.places, begin=lower_priority)
        stack.enter_context(upscaler)
        stack.enter_context(pool)
        line = f"serving {opened.path} on {url_of(listener)}"
        if as_json:
            about = {"bundle": str(opened.path), "url": url_of(listener), "runs_on": runs_on}
            line = json.dumps(about)
        server = make_server(
            create_app(pool, limits, runs_on=runs_on),
            access_log=access_log,
            started=lambda: click.echo(line),
        )
        server.run([listener])
