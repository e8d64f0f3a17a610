"""The body of a request: received within its limits of bytes and seconds, raw or as a form."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from flowsr_export.serve.answer import BODY_ENDED
from flowsr_export.serve.limits import ServeLimits
from flowsr_export.serve.responses import HttpError

__all__ = ["UploadReader", "Upload"]

MAX_FIELDS = 16
"""Fields of a form; there are fewer parameters."""


@dataclass(frozen=True)
class Upload:
    """What a request held.

    Attributes:
        data: The picture's file.
        fields: Texts of a form, by name; none where the body is the picture.
        size: Bytes of the body.
    """

    data: bytes
    fields: dict[str, str]
    size: int


class UploadReader:
    """The bodies of a server: each is bounded, and so is what all of them hold at once."""

    def __init__(self, limits: ServeLimits) -> None:
        """Start without any; see `ServeLimits`."""
        self._limits = limits
        self._most = limits.places * limits.max_body
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of bodies that are held now."""
        return self._held

    async def receive(self, request: Request) -> Upload:
        """Receive a body and count its bytes until `give` gets what it held.

        Args:
            request: Its body is a picture's file, or a form with one file.

        Returns:
            What it held.

        Raises:
            HttpError: 400, 408, 413, 415 or 429 if it goes beyond a limit or holds no file.
            ClientDisconnect: If the client leaves.
        """
        self._check_head(request)
        receiver = _Receiver(self, request)
        try:
            data, fields = await asyncio.wait_for(receiver.parts(), self._limits.body_timeout)
            if not data:
                raise HttpError(400, "the body is empty; give a picture's file")
        except asyncio.TimeoutError as error:
            self._held -= receiver.total
            raise HttpError(
                408,
                f"a body must arrive within {self._limits.body_timeout:g} s",
                {"Connection": "close"},
            ) from error
        except BaseException:
            self._held -= receiver.total
            raise
        return Upload(data, fields, receiver.total)

    def give(self, upload: Upload) -> None:
        """Count the bytes of an upload no more."""
        self._held -= upload.size

    def take(self, amount: int, total: int) -> None:
        """Count bytes that came; `total` are of one body, these included.

        Raises:
            HttpError: 413 or 429 if they are too many.
        """
        self._held += amount
        if total > self._limits.max_body:
            raise self._too_large()
        if self._held > self._most:
            raise HttpError(429, "too many bodies are being received", {"Retry-After": "1"})

    def _check_head(self, request: Request) -> None:
        """Refuse by the headers what need not be received."""
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.max_body:
            raise self._too_large()
        coding = request.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise HttpError(415, f"content-encoding must be identity, got {coding[:40]}")

    def _too_large(self) -> HttpError:
        return HttpError(
            413, f"a body must be at most {self._limits.max_body} bytes (--max-body)"
        )


class _Receiver:
    """Receives one body."""

    def __init__(self, intake: UploadReader, request: Request) -> None:
        self._intake = intake
        self._request = request
        self.total = 0

    async def parts(self) -> tuple[bytes, dict[str, str]]:
        """Return the picture's file and the fields beside it."""
        request = Request(self._request.scope, self._receive)
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await _form(request)
        return await request.body(), {}

    async def _receive(self) -> Any:
        message = await self._request.receive()
        if message["type"] == "http.request":
            if not message.get("more_body", False):
                self._request.scope[BODY_ENDED] = True
            amount = len(message.get("body", b""))
            self.total += amount
            self._intake.take(amount, self.total)
        return message


async def _form(request: Request) -> tuple[bytes, dict[str, str]]:
    """Read a form with one file, whatever its field is called."""
    try:
        form = await request.form(max_files=1, max_fields=MAX_FIELDS)
    except HTTPException as error:
        raise HttpError(400, f"the form cannot be read: {error.detail}") from error
    try:
        data: bytes | None = None
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                data = await value.read()
            else:
                fields[name] = value
    finally:
        await form.close()
    if data is None:
        raise HttpError(400, "the form holds no file; give the picture as one")
    return data, fields
