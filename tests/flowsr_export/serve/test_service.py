"""Upscale requests: admission, timeouts, and every outcome."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from flowsr_export.serve.admission import ServeLimits
from flowsr_export.serve.app import create_app
from flowsr_runtime import BundleError, MemoryBudgetError, NonFiniteError, Upscaler
from flowsr_runtime.upscaling.pool import UpscalerPool
from tests.flowsr_export.serve.serving import HeldPool, ask, counted, png, until, with_client
from tests.stand_in import picture

PIXELS = picture(9, 7, "serve")
BODY = png(PIXELS)
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/upscale",
    "query_string": b"scale=2",
    "headers": [],
}


def test_what_a_format_cannot_hold_is_refused_before_anything_is_enlarged(
    held: HeldPool,
) -> None:
    deep = png(np.zeros((9, 7), np.uint16))
    alpha = png(np.zeros((9, 7, 4), np.uint8))
    app = create_app(held.as_pool)
    for body, words in ((deep, "JPEG holds no 16 bits"), (alpha, "JPEG holds no alpha")):
        answer = ask(app, "POST", "/upscale?scale=2&format=jpeg", content=body)
        assert answer.status_code == 422
        assert words in answer.json()["error"]
    assert held.pending == []


def test_a_body_of_unknown_length_is_refused_when_it_has_become_too_long(app: FastAPI) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield bytes(10_000)

    answer = ask(app, "POST", "/upscale?scale=2", content=endless())
    assert answer.status_code == 413


def test_a_body_that_comes_too_slowly_is_refused(upscaler: Upscaler) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield BODY[:20]
        await asyncio.sleep(30)

    limits = ServeLimits(body_timeout=0.05)
    with UpscalerPool(upscaler) as pool:
        app = create_app(pool, limits)
        answer = ask(app, "POST", "/upscale?scale=2", content=slow())
    assert answer.status_code == 408
    assert answer.json()["error"] == "a body must arrive within 0.05 s"
    assert answer.headers["connection"] == "close"
    assert counted(app)["flowsr_places_taken"] == 0
    assert counted(app)["flowsr_body_bytes"] == 0


def test_bodies_are_refused_when_all_together_hold_too_much(held: HeldPool) -> None:
    app = create_app(held.as_pool, ServeLimits(places=2, max_body=len(BODY)))
    intake = app.state.service._uploads
    intake.count(len(BODY) + 1, len(BODY))
    answer = ask(app, "POST", "/upscale?scale=2", content=BODY)
    assert answer.status_code == 429
    assert answer.json()["error"] == "too many bodies are being received"


def test_one_picture_more_than_there_are_places_is_refused(held: HeldPool) -> None:
    app = create_app(held.as_pool, ServeLimits(places=2))

    async def crowd(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = [
            asyncio.ensure_future(client.post("/upscale?scale=2", content=BODY))
            for _ in range(2)
        ]
        await until(lambda: len(held.pending) == 2)
        refused = await client.post("/upscale?scale=2", content=BODY)
        for pending in held.pending:
            pending.set_result(PIXELS)
        return [refused, *await asyncio.gather(*first)]

    answers = with_client(app, crowd)
    assert [answer.status_code for answer in answers] == [429, 200, 200]
    assert answers[0].headers["retry-after"] == "1"
    assert answers[0].json()["error"] == "all 2 places are taken; try again later"
    assert ask(app, "POST", "/upscale?scale=2", content=b"").status_code == 400


def test_work_that_takes_too_long_is_cancelled(held: HeldPool) -> None:
    app = create_app(held.as_pool, ServeLimits(timeout=0.2))
    answer = ask(app, "POST", "/upscale?scale=2", content=BODY)
    assert answer.status_code == 504
    assert answer.json()["error"] == "no result within 0.2 s"
    assert held.pending[0].cancelled()
    assert counted(app)["flowsr_places_taken"] == 0


def sent_until_disconnected(
    app: FastAPI, held: HeldPool, before: Callable[[], object] = lambda: None
) -> list[Any]:
    """Disconnect once the pool has the picture, after `before`; return what was sent."""
    messages = [{"type": "http.request", "body": BODY, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await until(lambda: held.pending)
        before()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(SCOPE, receive, send))
    return sent


def test_work_is_cancelled_when_the_client_leaves(held: HeldPool) -> None:
    app = create_app(held.as_pool)
    sent_until_disconnected(app, held)
    assert held.pending[0].cancelled()
    assert counted(app)["flowsr_abandoned_total"] == 1
    assert counted(app)["flowsr_places_taken"] == 0


def test_a_server_that_ends_itself_is_not_taken_for_a_client_that_leaves(
    held: HeldPool,
) -> None:
    app = create_app(held.as_pool)

    def end() -> None:
        app.state.service.closing = True
        asyncio.get_running_loop().call_later(0.05, held.pending[0].set_result, PIXELS)

    assert sent_until_disconnected(app, held, end)[0]["status"] == 200


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (MemoryBudgetError("memory budget must be at least 9 bytes"), 413, "memory budget"),
        (NonFiniteError("the model gave NaN"), 500, "the model gave NaN"),
        (BundleError("the model gave (1, 2)"), 500, "the model gave (1, 2)"),
    ],
)
def test_an_error_of_the_model_has_a_status(
    held: HeldPool, error: Exception, status: int, words: str
) -> None:
    app = create_app(held.as_pool)

    async def fail(client: httpx.AsyncClient) -> httpx.Response:
        asked = asyncio.ensure_future(client.post("/upscale?scale=2", content=BODY))
        await until(lambda: held.pending)
        held.pending[0].set_exception(error)
        return await asked

    answer = with_client(app, fail)
    assert answer.status_code == status
    assert answer.json()["error"] == words or words in answer.json()["error"]


def test_a_bug_is_one_line_for_the_client_and_a_traceback_in_the_log(
    held: HeldPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(held, "submit", fail)
    app = create_app(held.as_pool)
    with caplog.at_level(logging.ERROR):
        answer = ask(app, "POST", "/upscale?scale=2", content=BODY)
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed; see its log"}
    assert "ZeroDivisionError: a secret" in caplog.text


def test_a_server_that_closes_takes_no_more(app: FastAPI) -> None:
    assert ask(app, "GET", "/readyz").status_code == 200
    app.state.service.closing = True
    answer = ask(app, "POST", "/upscale?scale=2", content=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert ask(app, "GET", "/readyz").status_code == 503
    assert ask(app, "GET", "/healthz").json() == {"status": "ok"}
