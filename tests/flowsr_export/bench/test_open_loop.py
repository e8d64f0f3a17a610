"""Requests that arrive when they are due, the limit that they keep, and the highest rate."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from flowsr_export.bench.open_loop import (
    LatencyLimit,
    Load,
    RateResult,
    arrival_times,
    highest_rate,
    offer,
    request_of,
    service_time,
)
from flowsr_runtime.errors import ProviderError, UsageError

LIMIT = LatencyLimit(90, 0.2)
PLENTY = LatencyLimit(90, 20.0)


@contextmanager
def answering(
    *, seconds: float = 0.0, status: int = 200, refuse_every: int = 0
) -> Iterator[str]:
    """Serve one request after another, each for some seconds; some are refused."""
    ready, counts = threading.Event(), iter(range(1, 10**6))
    state: dict[str, object] = {}

    async def run() -> None:
        busy, stop = asyncio.Lock(), asyncio.Event()
        state["loop"], state["stop"] = asyncio.get_running_loop(), stop

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"POST /upscale?scale=4 HTTP/1.1\r\n")
            refused = refuse_every and next(counts) % refuse_every == 0
            if not refused:
                async with busy:
                    await asyncio.sleep(seconds)
            code = 429 if refused else status
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % code)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        state["port"] = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{state['port']}"
    finally:
        loop, stop = state["loop"], state["stop"]
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert isinstance(stop, asyncio.Event)
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def load(url: str, duration: float = 0.1) -> Load:
    return Load(url, request_of(url, b"image", "scale=4"), "constant", duration, 0)


def test_arrivals_have_the_rate_and_repeat_with_their_seed() -> None:
    poisson = arrival_times("poisson", 50, 20_000, 3)
    gaps = np.diff(poisson)
    assert poisson[0] == 0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # of an exponential distribution
    assert (poisson == arrival_times("poisson", 50, 20_000, 3)).all()
    assert np.diff(arrival_times("constant", 50, 9, 0)) == pytest.approx(np.full(8, 1 / 50))


def test_a_rate_that_the_server_keeps_up_with_holds() -> None:
    with answering(seconds=0.001) as url:
        result = offer(load(url), 200, LatencyLimit(90, 5.0))
    assert result.holds
    assert (result.requests, result.answered, result.statuses) == (64, 64, {"200": 64})
    assert 0.001 <= (result.seconds["p50"] or 0) <= (result.seconds["p90"] or 0) < 5.0


def test_waiting_counts_from_the_arrival_not_from_the_sending() -> None:
    with answering(seconds=0.02) as url:
        result = offer(load(url), 1000, PLENTY)
    # 64 requests in 0.064 s wait for each other: the last ones for more than a second.
    assert (result.seconds["p90"] or 0) > 0.02 * 64 * 0.8


def test_a_rate_that_cannot_hold_ends_early() -> None:
    with answering(seconds=0.05) as url:
        result = offer(load(url, duration=20.0), 40, LatencyLimit(90, 0.06))
    assert not result.holds
    assert result.requests < 20 * 40


def test_a_refused_request_misses_the_limit() -> None:
    with answering(refuse_every=5) as url:
        result = offer(load(url), 200, PLENTY)
    assert not result.holds
    assert result.statuses["429"] >= 7
    assert result.seconds["p90"] is None


def test_a_percentile_of_too_few_requests_is_not_stated() -> None:
    with answering() as url:
        result = offer(load(url), 500, LatencyLimit(50, 5.0))
    assert (result.requests, result.holds) == (50, True)
    assert (result.seconds["p50"], result.seconds["p90"]) == (result.seconds["p50"], None)


def test_the_time_alone_is_that_of_one_request_after_another() -> None:
    with answering(seconds=0.02) as url:
        assert 0.02 <= service_time(load(url)) < 10.0


def test_a_server_that_does_not_answer_with_an_image_is_an_error() -> None:
    with (
        answering(status=503) as url,
        pytest.raises(ProviderError, match=r"must answer 200 to an image, got 503"),
    ):
        service_time(load(url))
    began = time.perf_counter()
    with pytest.raises(ProviderError, match="got lost"):
        service_time(load(url))  # it is gone
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(
    "url", ["ftp://a:1", "http://127.0.0.1:99999", "http://a:1/path", "http://"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"url must be like http://127\.0\.0\.1:8000, got"):
        request_of(url, b"", "")


def result_of(rate: float, most: float) -> RateResult:
    return RateResult(rate, 64, 64, {"200": 64}, {"p50": 0.1}, holds=rate <= most)


@pytest.mark.parametrize("most", [0.3, 1.0, 37.0, 1000.0])
def test_the_search_finds_the_highest_rate(most: float) -> None:
    results = highest_rate(lambda rate: result_of(rate, most), (), 5.0)
    best = max(result.rate for result in results if result.holds)
    assert most / 1.16 <= best <= most
    assert len(results) <= 16


def test_a_server_that_holds_no_rate_ends_the_search() -> None:
    results = highest_rate(lambda rate: result_of(rate, 0.0), (), 5.0)
    assert not any(result.holds for result in results)
    assert len(results) == 16


def test_rates_are_measured_up_to_the_first_that_fails() -> None:
    results = highest_rate(lambda rate: result_of(rate, 10), (20, 5, 10, 40), 1.0)
    assert [result.rate for result in results] == [5, 10, 20]
