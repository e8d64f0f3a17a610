"""Answers of a server: a picture in pieces, or one line of JSON that is sure to arrive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flowsr_export.serve.responses import HttpError

__all__ = ["BODY_ENDED", "ImageResponse", "ErrorResponse"]

BODY_ENDED = "flowsr.body_ended"
"""Key of an ASGI scope whose request was received to its end."""

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is taken in, so that its sender gets to read."""

PIECE = 64 << 10
"""Bytes that are sent at once; a client has to take that many in the time of a stall."""


class ImageResponse(Response):
    """A picture's file, sent in pieces: a client that stops reading is noticed."""

    def __init__(
        self,
        data: bytes,
        media_type: str,
        timings: Mapping[str, float],
        warnings: Sequence[str] = (),
    ) -> None:
        """Hold a file.

        Args:
            data: The file.
            media_type: Its type.
            timings: Seconds by stage, for the header Server-Timing.
            warnings: Lines on the result, for the header Flowsr-Warning.
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
        """Answer a request."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        for begin in range(0, len(self.body), PIECE):
            piece = bytes(self.body[begin : begin + PIECE])
            more = begin + PIECE < len(self.body)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


class ErrorResponse(Response):
    """A refusal as JSON: sent at once, then what is left of the body is taken in.

    A server that closes a connection with bytes unread resets it, and the client may never
    see why. So the answer goes out first, and the connection ends when the body has, or
    after `LINGER_SECONDS`.
    """

    def __init__(self, refusal: HttpError) -> None:
        """Put a refusal into words; see `HttpError`."""
        body = json.dumps({"error": " ".join(refusal.message.split())})
        super().__init__(body, refusal.status, refusal.headers, "application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if not scope.get(BODY_ENDED, False):
            with suppress(asyncio.TimeoutError):  # the client has had its answer
                await asyncio.wait_for(_drain(receive), LINGER_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
