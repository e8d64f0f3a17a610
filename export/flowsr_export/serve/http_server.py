"""HTTP server: sockets, timeouts for slow clients, graceful shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import resource
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from flowsr_runtime.errors import UsageError

__all__ = ["TimeoutH11Protocol", "listen", "make_server", "url_of"]

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10.0
"""Time limit for a request head, and for the rest of a refused body."""

STALL_SECONDS = 30.0
"""Time limit for a client to read before more of a response can be sent."""

IDLE_SECONDS = 15
"""Keep-alive time between two requests, in seconds."""

BACKLOG = 512
"""Connections that the operating system queues for this process."""

MOST_ACCEPTED = 16
"""Connections that are accepted at once, before other work and the count of them."""

SPARE_FILES = 48
"""Open files that are not connections: libraries, decoders, the model."""

MOST_CONNECTIONS = 1000
"""Open connections; further ones are closed at once."""


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: Address or name of this machine.
        port: Port, 0 for a free one.

    Returns:
        The socket, bound to its port; it already queues connections.

    Raises:
        UsageError: If the address or port cannot be used.
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
    """Return the URL of a server for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(
    app: FastAPI, *, access_log: bool = False, started: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """Make a server for an app; `server.run([listener])` serves until a signal arrives.

    SIGINT and SIGTERM stop it in the main thread, `server.should_exit = True` in any other.
    Running requests are completed first; a second SIGINT does not wait for them.

    Args:
        app: App made by `create_app`.
        access_log: Write one line per request to stdout.
        started: Called when the server accepts requests.

    Returns:
        The server.
    """
    limits = app.state.service.limits
    config = uvicorn.Config(
        app,
        http=TimeoutH11Protocol,
        ws="none",
        lifespan="off",
        log_level="info" if access_log else "error",  # errors of clients are not worth a line
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=math.ceil(limits.timeout + limits.body_timeout),
        backlog=MOST_ACCEPTED,
    )
    return _Server(config, started)


class _Server(uvicorn.Server):
    """uvicorn's server with a callback at startup, and `closing` set on the service."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():  # asyncio has set it to the number accepted at once
            listener.listen(BACKLOG)
        asyncio.get_running_loop().set_exception_handler(_log_once())
        self._started()

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


def _most_connections() -> int:
    """Return how many connections leave open files for everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(MOST_ACCEPTED, min(MOST_CONNECTIONS, files - MOST_ACCEPTED - SPARE_FILES))


def _log_once() -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """Return a handler that logs a full table of open files once, not once per attempt."""
    logged: set[str] = set()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message = str(context.get("message"))
        if "accept() out of system resource" not in message:
            loop.default_exception_handler(context)
        elif message not in logged:
            logged.add(message)
            logger.error("no more connections can be accepted: %s", context.get("exception"))

    return handle


class TimeoutH11Protocol(H11Protocol):
    """uvicorn's protocol with timeouts for heads and reads, and its own errors as JSON."""

    head_seconds = HEAD_SECONDS
    stall_seconds = STALL_SECONDS
    most_connections = _most_connections()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Pass uvicorn's arguments on."""
        super().__init__(*arguments, **options)
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request head."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._start("head", self.head_seconds, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeouts."""
        self._stop("head")
        self._stop("stall")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process bytes; a complete head ends its timeout."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("head")
        elif "head" not in self._timers and not self.transport.is_closing():
            self._start("head", self.head_seconds, self._head_is_late)

    def on_response_complete(self) -> None:
        """Leave idle time to uvicorn; the rest of a refused body has a timeout."""
        self._stop("head")
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self._start("head", self.head_seconds, self._head_is_late)

    def pause_writing(self) -> None:
        """Start the stall timeout: the client reads more slowly than we write."""
        super().pause_writing()
        self._start("stall", self.stall_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the stall timeout."""
        self._stop("stall")
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Respond to invalid HTTP; a running request ends as if its client had left."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._refuse(400, msg)

    def _start(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._stop(name)
        self._timers[name] = self.loop.call_later(seconds, call)

    def _stop(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    def _head_is_late(self) -> None:
        self._stop("head")
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:
            self._refuse(408, f"a request's head must arrive within {self.head_seconds:g} s")
        else:  # an idle connection, or the rest of a refused body
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Send an error response if one can still be sent, and close the connection."""
        body = json.dumps({"error": message}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
