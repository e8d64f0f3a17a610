"""In-process clients of the web app, and a pool that the test controls."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.serve.http_server import make_server
from flowsr_runtime import Upscaler
from flowsr_runtime.upscaling.pool import UpscalerPool

ResultT = TypeVar("ResultT")

PATIENCE = 20.0
"""Seconds after which a test gives up; none of them takes that long."""


class HeldPool:
    """A pool whose pictures are done when the test says so."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.upscaler = upscaler
        self.workers = 1
        self.pending: list[Future[NDArray[np.uint8]]] = []

    def submit(self, image: Any, scale: Any = None, **options: Any) -> Future[Any]:
        self.pending.append(Future())
        return self.pending[-1]

    @property
    def as_pool(self) -> UpscalerPool:
        return cast("UpscalerPool", self)


def png(pixels: NDArray[Any]) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> NDArray[Any]:
    """Return the pixels of a picture's file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def with_client(
    app: FastAPI, work: Callable[[httpx.AsyncClient], Awaitable[ResultT]]
) -> ResultT:
    """Run something with a client of an app in an event loop of its own."""

    async def run() -> ResultT:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1"
        ) as client:
            return await work(client)

    return asyncio.run(run())


def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask an app one thing."""
    return with_client(app, lambda client: client.request(method, path, **options))


def counted(app: FastAPI) -> dict[str, float]:
    """Return the counters of an app by name and labels."""
    lines = ask(app, "GET", "/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


async def until(true: Callable[[], object]) -> None:
    """Wait until something is true."""
    while not true():
        await asyncio.sleep(0.001)


@contextmanager
def in_thread(app: FastAPI, listener: socket.socket) -> Iterator[uvicorn.Server]:
    """Serve an app on a socket in a thread until the block ends."""
    started = threading.Event()
    server = make_server(app, started=started.set)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield server
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()
