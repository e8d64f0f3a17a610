"""Responses of the server: images in chunks, errors as one line of JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flowsr_runtime.errors import (
    BusyError,
    FlowsrError,
    MemoryBudgetError,
    OutputError,
    PictureError,
    ScaleError,
    ShapeError,
    UsageError,
)

__all__ = ["BODY_ENDED", "ErrorResponse", "HttpError", "ImageResponse", "http_error_from"]

BODY_ENDED = "flowsr.body_ended"
"""Key that marks an ASGI scope whose request body has been received completely."""

LINGER_SECONDS = 2.0
"""Seconds to receive the rest of a refused body, so that the client reads the error."""

CHUNK = 64 << 10
"""Bytes per chunk; a client has to read one within the stall timeout."""


# The first matching class decides.
STATUSES: tuple[tuple[type[FlowsrError], int], ...] = (
    (BusyError, 429),
    (PictureError, 400),
    (MemoryBudgetError, 413),
    (ScaleError, 422),
    (UsageError, 422),
    (ShapeError, 422),
    (OutputError, 422),
)


class HttpError(Exception):
    """A request that gets an error response.

    Attributes:
        status: HTTP status.
        message: One line for the client.
        headers: Headers of the response.
    """

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def http_error_from(error: FlowsrError) -> HttpError:
    """Return the HTTP error for an error of the library.

    Args:
        error: The library's error.

    Returns:
        The HTTP error, with status 500 if the request did not cause it.
    """
    for error_type, status in STATUSES:
        if isinstance(error, error_type):
            return HttpError(status, str(error))
    return HttpError(500, str(error))


class ImageResponse(Response):
    """An image file, sent in chunks so that a client that stops reading is detected."""

    def __init__(
        self,
        data: bytes,
        media_type: str,
        timings: Mapping[str, float],
        warnings: Sequence[str] = (),
    ) -> None:
        """Create a response.

        Args:
            data: The file.
            media_type: Media type of the file.
            timings: Seconds by stage, for the header Server-Timing.
            warnings: Warnings about the result, for the header Flowsr-Warning.
        """
        stages = [f"{name};dur={1000 * seconds:.1f}" for name, seconds in timings.items()]
        headers = {
            "Cache-Control": "no-store",
            "Server-Timing": ", ".join(stages),
            "X-Content-Type-Options": "nosniff",
        }
        if warnings:
            line = " ".join("; ".join(warnings).split())
            headers["Flowsr-Warning"] = line.encode("ascii", "replace").decode()
        super().__init__(data, 200, headers, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for begin in range(0, len(self.body), CHUNK):
            chunk = bytes(self.body[begin : begin + CHUNK])
            more = begin + CHUNK < len(self.body)
            await send({"type": "http.response.body", "body": chunk, "more_body": more})


class ErrorResponse(Response):
    """An error as JSON, sent before the rest of the request body is received.

    A server that closes a connection with unread bytes resets it, and the client may never
    read the error. The response is therefore sent first, and the connection is closed at the
    end of the body or after `LINGER_SECONDS`.
    """

    def __init__(self, error: HttpError) -> None:
        """Create a response for an error."""
        body = json.dumps({"error": " ".join(error.message.split())})
        super().__init__(body, error.status, error.headers, "application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if not scope.get(BODY_ENDED, False):
            with suppress(asyncio.TimeoutError):  # the client has its response
                await asyncio.wait_for(_drain(receive), LINGER_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
