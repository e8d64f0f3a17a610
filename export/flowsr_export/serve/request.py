"""Requests: parameters checked by pydantic, bodies received within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from flowsr_export.serve.admission import ServeLimits
from flowsr_export.serve.responses import BODY_ENDED, HttpError
from flowsr_runtime.geometry import exact_scale, parse_scale, parse_size
from flowsr_runtime.pictures.depth import Depth

__all__ = [
    "FORMATS",
    "PARAMETERS",
    "Upload",
    "UploadReader",
    "UpscaleParameters",
    "parse_parameters",
]

FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "tiff": "image/tiff"}
"""Media types of the output formats."""

DEPTHS: dict[str, Depth] = {"8": 8, "16": 16, "float": "float"}

MAX_LENGTH = 64
"""Maximum characters of a value; a longer number would take time to parse exactly."""

MAX_FIELDS = 16
"""Maximum fields of a form; there are fewer parameters."""


def _scale(text: str) -> str | tuple[str, str]:
    scale = parse_scale(text)
    for factor in (scale,) if isinstance(scale, str) else scale:
        exact_scale(factor)
    return scale


def _depth(text: str) -> Depth:
    if text not in DEPTHS:
        raise ValueError(f"depth must be one of {', '.join(DEPTHS)}, got {text!r}")
    return DEPTHS[text]


class UpscaleParameters(BaseModel):
    """Parameters of an upscale request; sizes are (H, W) here and WxH in the request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: Annotated[
        str | tuple[str, str] | None,
        BeforeValidator(_scale),
        Field(description="Upscaling factor, at least 1; 2.7x3.6 is width by height."),
    ] = None
    size: Annotated[
        tuple[int, int] | None,
        BeforeValidator(parse_size),
        Field(description="Output width and height in pixels, such as 1920x1080."),
    ] = None
    format: Annotated[
        Literal["png", "jpeg", "webp", "tiff"],
        BeforeValidator(lambda text: text.lower().replace("jpg", "jpeg")),
        Field(description="Output format: png (the default), jpeg, webp or tiff."),
    ] = "png"
    depth: Annotated[
        Depth | None,
        BeforeValidator(_depth),
        Field(description="Bits per channel: 8, 16 or float; by default those of the input."),
    ] = None
    resample: Annotated[
        bool,
        Field(description="1 resizes the result of a fixed-scale model to any other scale."),
    ] = False
    temperature: Annotated[
        float | None,
        Field(
            allow_inf_nan=False,
            description="Standard deviation of the noise, for models that can be sampled.",
        ),
    ] = None
    seed: Annotated[int, Field(ge=0, description="Random seed for the noise.")] = 0


PARAMETERS = {
    name: str(field.description) for name, field in UpscaleParameters.model_fields.items()
}
"""Descriptions of the parameters, in the query or in the fields of a form."""


def parse_parameters(texts: Mapping[str, str], *, fixed: bool = False) -> UpscaleParameters:
    """Parse the parameters of a request.

    Args:
        texts: Values by name.
        fixed: Whether the model has a fixed scale.

    Returns:
        The parameters.

    Raises:
        HttpError: 422 if a name is unknown or a value is invalid.
    """
    for name, text in texts.items():
        if name not in PARAMETERS:
            names = ", ".join(PARAMETERS)
            raise HttpError(422, f"parameters must be among {names}, got {name[:40]!r}")
        if len(text) > MAX_LENGTH:
            most = f"at most {MAX_LENGTH} characters"
            raise HttpError(422, f"{name} must be {most}, got {len(text)}")
    sizes = [name for name in ("scale", "size") if name in texts]
    if len(sizes) > 1 or not (sizes or fixed):
        raise HttpError(422, "give exactly one of scale and size")
    try:
        return UpscaleParameters.model_validate(dict(texts))
    except ValidationError as error:
        raise HttpError(422, _line(error)) from error


def _line(error: ValidationError) -> str:
    """Return the first problem as one line with the name and the value."""
    first = error.errors()[0]
    if "error" in first.get("ctx", {}):  # raised by one of our own parsers
        return str(first["ctx"]["error"])
    rule = first["msg"].removeprefix("Input should be ")
    return f"{first['loc'][0]} must be {rule}, got {first['input']!r}"


@dataclass(frozen=True)
class Upload:
    """A received request body.

    Attributes:
        data: Image file.
        fields: Texts of a form by name; empty if the body is the image.
        size: Bytes of the body.
    """

    data: bytes
    fields: dict[str, str]
    size: int


class UploadReader:
    """Receive bodies; limit each of them, and the bytes that all of them hold.

    Attributes:
        held: Bytes of the bodies in memory.
    """

    def __init__(self, limits: ServeLimits) -> None:
        """Create a reader without bodies."""
        self._limits = limits
        self._most = limits.places * limits.max_body
        self.held = 0

    async def receive(self, request: Request) -> Upload:
        """Receive a body and count its bytes until `release`.

        Args:
            request: Request whose body is an image file, or a form with one file.

        Returns:
            The upload.

        Raises:
            HttpError: 400, 408, 413, 415 or 429 if it exceeds a limit or holds no file.
            ClientDisconnect: If the client leaves.
        """
        self._check_head(request)
        timeout, total = self._limits.body_timeout, 0

        async def receive_counted() -> Any:
            nonlocal total
            message = await request.receive()
            if message["type"] == "http.request":
                if not message.get("more_body", False):
                    request.scope[BODY_ENDED] = True
                amount = len(message.get("body", b""))
                total += amount
                self.count(amount, total)
            return message

        try:
            parts = _parts(Request(request.scope, receive_counted))
            data, fields = await asyncio.wait_for(parts, timeout)
            if not data:
                raise HttpError(400, "the body is empty; send an image file")
        except BaseException as error:
            self.held -= total
            if isinstance(error, asyncio.TimeoutError):
                message = f"a body must arrive within {timeout:g} s"
                raise HttpError(408, message, {"Connection": "close"}) from error
            raise
        return Upload(data, fields, total)

    def release(self, upload: Upload) -> None:
        """Release the bytes of an upload."""
        self.held -= upload.size

    def count(self, amount: int, total: int) -> None:
        """Count received bytes; `total` includes the earlier ones of the same body.

        Raises:
            HttpError: 413 or 429 if there are too many.
        """
        self.held += amount
        if total > self._limits.max_body:
            raise self._too_large()
        if self.held > self._most:
            raise HttpError(429, "too many bodies are being received", {"Retry-After": "1"})

    def _check_head(self, request: Request) -> None:
        """Refuse a body by its headers, before it is received."""
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.max_body:
            raise self._too_large()
        coding = request.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise HttpError(415, f"content-encoding must be identity, got {coding[:40]}")

    def _too_large(self) -> HttpError:
        return HttpError(413, f"a body must be at most {self._limits.max_body} bytes")


async def _parts(request: Request) -> tuple[bytes, dict[str, str]]:
    """Return the image file and the form fields."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _form(request)
    return await request.body(), {}


async def _form(request: Request) -> tuple[bytes, dict[str, str]]:
    """Read a form with one file in a field of any name."""
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
        raise HttpError(400, "the form holds no file; attach the image as one")
    return data, fields
