"""A small web server for one machine: POST a picture, get a picture."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flowsr_export.serve.answer import ErrorResponse
from flowsr_export.serve.limits import ServeLimits
from flowsr_export.serve.metrics import CONTENT_TYPE_LATEST
from flowsr_export.serve.parameters import FORMATS, PARAMETERS
from flowsr_export.serve.responses import HttpError
from flowsr_export.serve.service import Service
from flowsr_runtime.upscaling.pool import UpscalerPool

__all__ = ["create_app"]

PAGES = Path(__file__).parent / "pages"
"""The page to try it: its files ask nothing of any other server."""

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

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The result.", "content": {kind: {} for kind in FORMATS.values()}},
    400: {"description": "Not a picture that can be read, or no HTTP."},
    408: {"description": "The body did not arrive in time."},
    413: {"description": "Body, picture or result are too large; the limit is named."},
    415: {"description": "The body is encoded, or of a kind that is not read."},
    422: {"description": "Parameters that make no sense, or not for this model."},
    429: {"description": "All places are taken; Retry-After says when to try again."},
    500: {"description": "The server failed."},
    503: {"description": "The server is closing."},
    504: {"description": "No result in time; the work was cancelled."},
}


def create_app(
    pool: UpscalerPool, limits: ServeLimits | None = None, *, runs_on: str = "onnxruntime"
) -> FastAPI:
    """Make an app that enlarges pictures with a pool.

    Nothing is started and nothing global is touched; two apps in one process know nothing of
    each other. `app.state.service` is its `Service`; whoever ends the server sets `closing`
    there, and closes the pool afterwards.

    Args:
        pool: What computes; it is not closed by the app.
        limits: What one request and all of them may take, None for the defaults.
        runs_on: What the pool computes with, for whoever asks.

    Returns:
        The app.
    """
    service = Service(pool, limits or ServeLimits())
    app = FastAPI(
        title="flowsr",
        summary="Enlarge pictures.",
        version=version("flowsr-lp"),
        docs_url=None,  # these pages load scripts from another server
        redoc_url=None,
        dependencies=[Depends(_host_check(service.limits))],
    )
    app.state.service = service
    app.add_exception_handler(HttpError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    _add_pictures(app, service)
    _add_state(app, service, runs_on)
    for path, (name, kind) in PAGE_FILES.items():
        _add_page(app, path, (PAGES / name).read_bytes(), kind)
    return app


def _add_pictures(app: FastAPI, service: Service) -> None:
    """Add what the server is for."""

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
        summary="Enlarge the picture in the body, or the file of a form.",
        response_class=Response,
        responses=ANSWERS,
        openapi_extra={"parameters": texts, "requestBody": {**body, "required": True}},
    )


def _add_state(app: FastAPI, service: Service, runs_on: str) -> None:
    """Add what says how the server does."""

    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz() -> Response:
        if service.closing:
            raise HttpError(503, "the server is closing")
        return JSONResponse({"status": "ready"})

    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def model() -> Response:
        return JSONResponse({**_described(service), "backend": runs_on})

    app.add_api_route("/healthz", healthz, summary="The process answers.")
    app.add_api_route("/readyz", readyz, summary="New pictures are taken.")
    app.add_api_route("/metrics", metrics, summary="Counters for Prometheus.")
    app.add_api_route("/v1/model", model, summary="What is loaded, and the limits.")


def _add_page(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    async def page() -> Response:
        return Response(content, headers=PAGE_HEADERS, media_type=kind)

    app.add_api_route(path, page, include_in_schema=False)


def _described(service: Service) -> dict[str, Any]:
    """Return what is loaded, as JSON takes it."""
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


def _host_check(limits: ServeLimits) -> Any:
    """Return what keeps pages of other sites from a server that is for this machine."""

    async def check_host(request: Request) -> None:
        if limits.hosts is None:
            return
        host = _host_of(request.headers.get("host", ""))
        if host not in limits.hosts:
            raise HttpError(
                403, f"requests must be for {', '.join(limits.hosts)}, got {host[:80]!r}"
            )
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method == "POST":
            raise HttpError(403, "pages of other sites cannot use this server")

    return check_host


def _host_of(header: str) -> str:
    """Return the host of a Host header without its port; empty if there is none in it."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


async def _refused(request: Request, error: Exception) -> Response:
    """Return every refusal in the one form that they have here."""
    if isinstance(error, HTTPException):  # no such path or method
        error = HttpError(error.status_code, str(error.detail), error.headers)
    assert isinstance(error, HttpError)
    return ErrorResponse(error)
