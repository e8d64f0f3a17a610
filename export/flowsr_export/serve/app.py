"""The web app: upscaling, health checks, metrics, a page to try it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flowsr_export.serve.admission import ServeLimits
from flowsr_export.serve.metrics import CONTENT_TYPE_LATEST
from flowsr_export.serve.request import FORMATS, PARAMETERS
from flowsr_export.serve.responses import ErrorResponse, HttpError
from flowsr_export.serve.service import Service
from flowsr_runtime.upscaling.pool import UpscalerPool

__all__ = ["create_app"]

HEALTH = ("/healthz", "/readyz")
"""Routes that say nothing about the server except that it runs."""

PAGES = Path(__file__).parent / "pages"
"""Folder of the demo page, which loads nothing from other servers."""

PAGE_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The result.", "content": {media: {} for media in FORMATS.values()}},
    400: {"description": "The image cannot be read, or the request is not HTTP."},
    408: {"description": "The body was not received in time."},
    413: {"description": "Body, image or result exceed a limit, which is named."},
    415: {"description": "The body is compressed or not a supported image format."},
    422: {"description": "The parameters are invalid, or not supported by this model."},
    429: {"description": "The server is full; retry after the seconds of Retry-After."},
    500: {"description": "The server failed."},
    503: {"description": "The server is shutting down."},
    504: {"description": "The result was not ready in time; the work was canceled."},
}


def create_app(
    pool: UpscalerPool, limits: ServeLimits | None = None, *, runs_on: str = "onnxruntime"
) -> FastAPI:
    """Make an app that upscales images with a pool.

    Several apps in one process are independent. `app.state.service` is the app's `Service`;
    to shut down, set its `closing`, and close the pool afterwards.

    Args:
        pool: Upscalers that compute the results; the app does not close it.
        limits: Limits of requests, None for the defaults.
        runs_on: Name of the backend, shown in `/v1/model`.

    Returns:
        The app.
    """
    service = Service(pool, limits or ServeLimits())
    app = FastAPI(
        title="flowsr",
        summary="Upscale images.",
        version=version("flowsr-lp"),
        docs_url=None,  # these pages load scripts from another server
        redoc_url=None,
        dependencies=[Depends(_request_check(service.limits))],
    )
    app.state.service = service
    app.add_exception_handler(HttpError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    _add_pictures(app, service)
    _add_state(app, service, runs_on)
    for path, (name, media_type) in PAGE_FILES.items():
        _add_page(app, path, (PAGES / name).read_bytes(), media_type)
    return app


def _add_pictures(app: FastAPI, service: Service) -> None:
    """Add the upscale route."""

    async def upscale(request: Request) -> Response:
        return await service.answer(request)

    schema = {"schema": {"type": "string"}}
    texts = [
        {"name": name, "in": "query", "description": about, **schema}
        for name, about in PARAMETERS.items()
    ]
    body = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
    app.add_api_route(
        "/upscale",
        upscale,
        methods=["POST"],
        summary="Upscale the image in the body or in a form.",
        response_class=Response,
        responses=RESPONSES,
        openapi_extra={"parameters": texts, "requestBody": {**body, "required": True}},
    )


def _add_state(app: FastAPI, service: Service, runs_on: str) -> None:
    """Add the routes for health, metrics and model information."""

    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz() -> Response:
        if service.closing:
            raise HttpError(503, "the server is closing")
        return JSONResponse({"status": "ready"})

    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def model() -> Response:
        return JSONResponse({**_description(service), "backend": runs_on})

    for path, answer, summary in (
        (HEALTH[0], healthz, "Liveness check."),
        (HEALTH[1], readyz, "Readiness check."),
        ("/metrics", metrics, "Prometheus metrics."),
        ("/v1/model", model, "Loaded model and limits."),
    ):
        app.add_api_route(path, answer, summary=summary)
        # Load balancers ask for the head alone.
        app.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)


def _add_page(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    async def page() -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=media_type)

    app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)


def _description(service: Service) -> dict[str, Any]:
    """Return the model and the limits as JSON."""
    manifest, limits = service.pool.upscaler.bundle.manifest, service.limits
    return {
        "family": manifest.family,
        "scale": None if manifest.scale is None else str(manifest.scale),
        "sampled": bool(manifest.latents),
        "formats": list(FORMATS),
        "parameters": PARAMETERS,
        "limits": {
            "places": limits.places,
            "body_bytes": limits.max_body,
            "pixels": limits.max_pixels,
            "output_pixels": limits.max_output_pixels,
            "seconds": limits.timeout,
        },
    }


def _request_check(limits: ServeLimits) -> Any:
    """Return a check of the framing, and against pages of other sites on the loopback."""

    async def check_request(request: Request) -> None:
        if {"content-length", "transfer-encoding"} <= set(request.headers):
            # A proxy may see two requests where this server sees one.
            raise HttpError(400, "give content-length or transfer-encoding, not both")
        if limits.hosts is None or request.url.path in HEALTH:  # monitors name no host
            return
        host = _host_of(request.headers.get("host", ""))
        if host not in limits.hosts:
            names = ", ".join(limits.hosts)
            raise HttpError(403, f"requests must be for {names}, got {host[:80]!r}")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "POST":
            raise HttpError(403, "pages of other sites cannot use this server")

    return check_request


def _host_of(header: str) -> str:
    """Return the host of a Host header without its port, empty if it is malformed."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


async def _refused(request: Request, error: Exception) -> Response:
    """Return an error as JSON."""
    if isinstance(error, HTTPException):  # unknown path or method
        error = HttpError(error.status_code, str(error.detail), error.headers)
    assert isinstance(error, HttpError)
    return ErrorResponse(error)
