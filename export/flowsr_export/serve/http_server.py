"""Run an app on a socket until a signal comes, and answer what was asked before it."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from flowsr_export.serve.protocol import TimeoutH11Protocol
from flowsr_runtime.errors import UsageError

__all__ = ["listen", "make_server", "url_of"]

IDLE_SECONDS = 15
"""How long a connection may stay open between two requests."""

BACKLOG = 512
"""Connections that the system accepts before this process does."""


def listen(host: str, port: int) -> socket.socket:
    """Open a socket to serve on.

    Args:
        host: Address or name of this machine.
        port: Its port, 0 for one that is free.

    Returns:
        The socket; it is bound, so that the port is known, and queues connections.

    Raises:
        UsageError: If it cannot be had.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot serve on {host} port {port}: {reason}") from error


def url_of(listener: socket.socket) -> str:
    """Return the address of a server as a browser takes it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(
    app: FastAPI, *, access_log: bool = False, started: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """Make what serves an app: `server.run([listener])` does, until a signal comes.

    SIGINT and SIGTERM end it in the main thread, `server.should_exit = True` in any other.
    Requests that are being computed are answered first; a second SIGINT does not wait.

    Args:
        app: What `create_app` gave.
        access_log: Write one line on stdout for each request.
        started: Called when requests are taken.

    Returns:
        The server.
    """
    limits = app.state.service.limits
    config = uvicorn.Config(
        app,
        http=TimeoutH11Protocol,
        ws="none",
        lifespan="off",
        log_level="info" if access_log else "error",  # each line of a stranger is no news
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(limits.timeout + limits.body_timeout),
        backlog=BACKLOG,
    )
    return _Server(config, started)


class _Server(uvicorn.Server):
    """uvicorn's server; it tells when it takes requests and when it no longer does."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._close()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._close()
        super().handle_exit(sig, frame)

    def _close(self) -> None:
        app = self.config.app
        assert isinstance(app, FastAPI)
        app.state.service.closing = True
