"""One picture on its way through a server: a place, its stages, a deadline, its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flowsr_export.serve.admission import AdmissionSlots
from flowsr_export.serve.answer import ErrorResponse, ImageResponse
from flowsr_export.serve.limits import ServeLimits
from flowsr_export.serve.metrics import ServeMetrics
from flowsr_export.serve.niceness import lower_priority
from flowsr_export.serve.parameters import FORMATS, UpscaleParameters, parse_parameters
from flowsr_export.serve.request import UploadReader
from flowsr_export.serve.responses import HttpError, http_error_from
from flowsr_runtime.errors import BundleError, FlowsrError
from flowsr_runtime.pictures.files import Picture, encode_picture, read_picture
from flowsr_runtime.pictures.formats import READABLE, kind_of, open_image
from flowsr_runtime.upscaling.pool import UpscalerPool

__all__ = ["Service"]

LEFT = 499
"""Status under which a request is counted whose client left; no one reads it."""

ResultT = TypeVar("ResultT")

logger = logging.getLogger(__name__)


class Service:
    """Answers requests for pictures with a pool; one for each app.

    Attributes:
        closing: Whether new requests are refused, since the server ends.
    """

    def __init__(self, pool: UpscalerPool, limits: ServeLimits) -> None:
        """Join a pool and limits; the pool is not closed by this."""
        self.pool = pool
        self.limits = limits
        self.closing = False
        self._places = AdmissionSlots(limits.places)
        self._intake = UploadReader(limits)
        self.metrics = ServeMetrics(
            limits.places, lambda: self._places.taken, lambda: self._intake.held
        )

    async def answer(self, request: Request) -> Response:
        """Answer a request for a picture, whatever becomes of it.

        Args:
            request: The picture in its body or in a form, the parameters in its query or there.

        Returns:
            The picture, or a refusal.
        """
        began = perf_counter()
        response: Response
        try:
            response = await self._picture(request)
        except HttpError as refusal:
            response = ErrorResponse(refusal)
        except FlowsrError as error:
            response = ErrorResponse(http_error_from(error))
        except ClientDisconnect:
            self.metrics.abandoned.inc()
            response = Response(status_code=LEFT)
        except Exception:
            logger.exception("a request for a picture failed")
            response = ErrorResponse(HttpError(500, "the server failed; its log says why"))
        self.metrics.answered(response.status_code, perf_counter() - began)
        return response

    async def _picture(self, request: Request) -> Response:
        """Give a request a place, and the place back when its work has really ended."""
        if self.closing:
            raise HttpError(503, "the server is closing", {"Retry-After": "5"})
        with ExitStack() as stack:
            self._places.take()
            stack.callback(self._places.give)
            timings: dict[str, float] = {}
            with self.metrics.stage("receive", timings):
                upload = await self._intake.receive(request)
            stack.callback(self._intake.give, upload)
            texts = {**request.query_params, **upload.fields}
            parameters = parse_parameters(
                texts, fixed=self.pool.upscaler.bundle.manifest.scale is not None
            )
            work = asyncio.ensure_future(self._enlarged(upload.data, parameters, timings))
            ends = stack.pop_all()
        work.add_done_callback(lambda task: _ended(task, ends))
        return await self._first(work, request)

    async def _first(self, work: asyncio.Future[Response], request: Request) -> Response:
        """Wait for the answer, for the client to leave, or for the time to run out."""
        gone = asyncio.ensure_future(_left(request))
        awaited: set[asyncio.Future[Any]] = {work, gone}
        timeout = self.limits.timeout
        try:
            done, _ = await asyncio.wait(
                awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if self.closing and gone in done:  # some servers say so when they end themselves
                done, _ = await asyncio.wait({work}, timeout=timeout)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
        if work in done:
            return work.result()
        if gone in done:
            raise ClientDisconnect
        raise HttpError(504, f"no picture within {self.limits.timeout:g} s (--timeout)")

    async def _enlarged(
        self, data: bytes, parameters: UpscaleParameters, timings: dict[str, float]
    ) -> Response:
        """Decode, enlarge and encode a picture."""
        metrics = self.metrics
        with metrics.stage("decode", timings):
            picture = await _in_thread(lambda: _decoded(data, self.limits.max_pixels))
        height, width = self._target(picture, parameters)
        warnings: list[str] = []
        with metrics.stage("enlarge", timings):
            pending = self.pool.submit(
                picture.pixels,
                parameters.scale,
                size=parameters.size,
                resample=parameters.resample,
                temperature=parameters.temperature,
                seed=parameters.seed,
                warn=warnings.append,
            )
            large = await asyncio.wrap_future(pending)
        self._places.note(timings["enlarge"])
        with metrics.stage("encode", timings):
            body = await _in_thread(lambda: _encoded(large, picture, parameters))
        metrics.pixels.inc(height * width)
        return ImageResponse(body, FORMATS[parameters.format], timings, warnings)

    def _target(self, picture: Picture, parameters: UpscaleParameters) -> tuple[int, int]:
        """Return the size (H, W) of a result, refusing what cannot or shall not be made."""
        source = (picture.rgb.shape[0], picture.rgb.shape[1])
        upscaler = self.pool.upscaler
        height, width = upscaler.target(
            source, parameters.scale, size=parameters.size, resample=parameters.resample
        )
        if height * width > self.limits.max_output_pixels:
            raise HttpError(
                413,
                f"a result must have at most {self.limits.max_output_pixels} pixels "
                f"(--max-output-pixels), got {width}x{height}",
            )
        pixels = picture.pixels
        # One pixel is refused by whatever would refuse the result: depth, alpha, profile.
        _encoded(np.zeros((1, 1, *pixels.shape[2:]), pixels.dtype), picture, parameters)
        try:
            upscaler.plan(
                source, parameters.scale, size=parameters.size, resample=parameters.resample
            )
        except BundleError as error:  # no engine takes this size: another may be
            raise HttpError(422, str(error)) from error
        return height, width


def _decoded(data: bytes, max_pixels: int) -> Picture:
    """Decode a picture whose head says that it is one, and not too large."""
    if kind_of(data) is None:
        raise HttpError(415, f"the body is not a {READABLE} picture")
    try:
        width, height = open_image(data, "the picture").size
    except Exception:  # decoders raise anything; the reader puts it into words
        width = height = 0
    if width * height > max_pixels:
        raise HttpError(
            413,
            f"a picture must have at most {max_pixels} pixels (--max-pixels), "
            f"got {width}x{height}",
        )
    return read_picture(data, max_pixels=max_pixels)


def _encoded(pixels: NDArray[Any], picture: Picture, parameters: UpscaleParameters) -> bytes:
    return encode_picture(pixels, parameters.format, like=picture, depth=parameters.depth)


async def _in_thread(function: Callable[[], ResultT]) -> ResultT:
    """Run a function in a thread, and wait for its end even when cancelled.

    A thread cannot be stopped; what it holds is only free when it has ended.
    """

    def called() -> ResultT:
        lower_priority()
        return function()

    future = asyncio.get_running_loop().run_in_executor(None, called)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise


async def _left(request: Request) -> None:
    """Return when the client has left."""
    kind = None
    while kind != "http.disconnect":
        kind = (await request.receive())["type"]


def _ended(task: asyncio.Future[Response], ends: ExitStack) -> None:
    ends.close()
    if not task.cancelled():
        task.exception()  # seen, also where no one waits for it any more
