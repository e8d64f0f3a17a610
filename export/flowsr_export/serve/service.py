"""Handle one upscale request: admission, decode, upscale, encode, timeout."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flowsr_export.serve.admission import AdmissionSlots, ServeLimits
from flowsr_export.serve.decoder import DecodeCall
from flowsr_export.serve.metrics import ServeMetrics
from flowsr_export.serve.niceness import lower_priority
from flowsr_export.serve.request import (
    FORMATS,
    UploadReader,
    UpscaleParameters,
    parse_parameters,
)
from flowsr_export.serve.responses import (
    ErrorResponse,
    HttpError,
    ImageResponse,
    http_error_from,
)
from flowsr_runtime.errors import BundleError, FlowsrError
from flowsr_runtime.pictures.files import Picture, encode_picture
from flowsr_runtime.pictures.formats import READABLE, check_format, kind_of
from flowsr_runtime.upscaling.pool import UpscalerPool

__all__ = ["Service"]

GRACE_SECONDS = 0.5
"""Time for a cancelled decode to end by itself; a new process takes about as long."""

CLIENT_CLOSED = 499
"""Status that counts a request whose client left."""

ResultT = TypeVar("ResultT")

logger = logging.getLogger(__name__)


class Service:
    """Handler of upscale requests; each app has one.

    Attributes:
        pool: Upscalers that compute the results.
        limits: Limits of requests.
        metrics: Metrics of the app.
        closing: Whether the server is shutting down and refuses new requests.
    """

    def __init__(self, pool: UpscalerPool, limits: ServeLimits) -> None:
        """Use a pool, which the service does not close."""
        self.pool = pool
        self.limits = limits
        self.closing = False
        self._slots = AdmissionSlots(limits.places)
        self._uploads = UploadReader(limits)
        self.metrics = ServeMetrics(
            limits.places,
            lambda: self._slots.used,
            lambda: self._uploads.held,
            pool.upscaler.features,
        )

    async def answer(self, request: Request) -> Response:
        """Answer an upscale request.

        Args:
            request: Request with the image in its body or in a form, and the parameters in
                its query or in the form.

        Returns:
            The image, or an error response.
        """
        began = perf_counter()
        response: Response
        try:
            response = await self._picture(request)
        except HttpError as error:
            response = ErrorResponse(error)
        except FlowsrError as error:
            response = ErrorResponse(http_error_from(error))
        except ClientDisconnect:
            self.metrics.abandoned.inc()
            response = Response(status_code=CLIENT_CLOSED)
        except Exception:
            logger.exception("an upscale request failed")
            response = ErrorResponse(HttpError(500, "the server failed; see its log"))
        self.metrics.answered(response.status_code, perf_counter() - began)
        return response

    async def _picture(self, request: Request) -> Response:
        """Hold a slot for a request until its work has really ended."""
        if self.closing:
            raise HttpError(503, "the server is closing", {"Retry-After": "5"})
        with ExitStack() as stack:
            self._slots.acquire()
            stack.callback(self._slots.release)
            timings: dict[str, float] = {}
            with self.metrics.stage("receive", timings):
                upload = await self._uploads.receive(request)
            stack.callback(self._uploads.release, upload)
            texts = {**request.query_params, **upload.fields}
            parameters = parse_parameters(
                texts, fixed=self.pool.upscaler.bundle.manifest.scale is not None
            )
            work = asyncio.ensure_future(self._upscaled(upload.data, parameters, timings))
            cleanup = stack.pop_all()
        work.add_done_callback(lambda task: _finish(task, cleanup))
        return await self._first(work, request)

    async def _first(self, work: asyncio.Future[Response], request: Request) -> Response:
        """Wait for the response, the client leaving, or the timeout."""
        gone = asyncio.ensure_future(_left(request))
        awaited: set[asyncio.Future[Any]] = {work, gone}
        timeout = self.limits.timeout
        try:
            done, _ = await asyncio.wait(
                awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if self.closing and gone in done:  # some servers send this at their own shutdown
                done, _ = await asyncio.wait({work}, timeout=timeout)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
        if work in done:
            return work.result()
        if gone in done:
            raise ClientDisconnect
        raise HttpError(504, f"no result within {self.limits.timeout:g} s")

    async def _upscaled(
        self, data: bytes, parameters: UpscaleParameters, timings: dict[str, float]
    ) -> Response:
        """Decode, upscale and encode an image."""
        metrics = self.metrics
        with metrics.stage("decode", timings):
            picture = await _decoded(data, self.limits.max_pixels)
        height, width = await _in_thread(lambda: self._target(picture, parameters))
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
        self._slots.record(timings["enlarge"])
        with metrics.stage("encode", timings):
            body = await _in_thread(
                lambda: encode_picture(
                    large, parameters.format, like=picture, depth=parameters.depth
                )
            )
        metrics.pixels.inc(height * width)
        return ImageResponse(body, FORMATS[parameters.format], timings, warnings)

    def _target(self, picture: Picture, parameters: UpscaleParameters) -> tuple[int, int]:
        """Return the size (H, W) of a result; refuse one that is too large or unsupported."""
        upscaler = self.pool.upscaler
        scale, size, resample = parameters.scale, parameters.size, parameters.resample
        height, width = upscaler.target(picture.size, scale, size=size, resample=resample)
        if height * width > self.limits.max_output_pixels:
            most = f"at most {self.limits.max_output_pixels} pixels"
            raise HttpError(413, f"a result must have {most}, got {width}x{height}")
        if max(height, width) > self.limits.max_output_side:
            most = f"sides of at most {self.limits.max_output_side} pixels"
            raise HttpError(413, f"a result must have {most}, got {width}x{height}")
        check_format(
            parameters.format,
            picture.mode,
            parameters.depth or picture.depth,
            size=(height, width),
            icc=picture.icc,
        )
        try:
            upscaler.plan(picture.size, scale, size=size, resample=resample)
        except BundleError as error:  # no engine accepts this size; another size may fit
            raise HttpError(422, str(error)) from error
        return height, width


async def _decoded(data: bytes, max_pixels: int) -> Picture:
    """Decode an image in a process of its own, which a timeout ends."""
    if kind_of(data) is None:
        raise HttpError(415, f"the body is not a {READABLE} image")
    call = DecodeCall(data, max_pixels)
    return await _in_thread(call.run, call.stop)


async def _in_thread(
    function: Callable[[], ResultT], stop: Callable[[], None] = lambda: None
) -> ResultT:
    """Run a function in a thread, and wait for its end even if cancelled.

    A thread cannot be stopped, and its memory is free only after its end.

    Args:
        function: Function to call.
        stop: Called if this is cancelled; makes the function end soon, if anything can.

    Returns:
        The function's result.
    """

    def called() -> ResultT:
        lower_priority()
        return function()

    future = asyncio.get_running_loop().run_in_executor(None, called)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        done, _ = await asyncio.wait({future}, timeout=GRACE_SECONDS)
        if not done:
            stop()
        await asyncio.wait({future})
        if not future.cancelled():
            future.exception()  # retrieved, or asyncio would log it
        raise


async def _left(request: Request) -> None:
    """Return when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _finish(task: asyncio.Future[Response], cleanup: ExitStack) -> None:
    cleanup.close()
    if not task.cancelled():
        task.exception()  # retrieved, or asyncio would warn if no one waits any more
