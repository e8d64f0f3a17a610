"""Offer requests at a rate that does not wait for the server, and find the highest that holds.

A client that waits for each answer offers less when the server is slow, and so hides how long
requests would have waited. Here requests arrive when they are due, and the time of each counts
from then.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from flowsr_export.bench.timing import runs_needed
from flowsr_runtime.errors import ProviderError, UsageError

__all__ = [
    "Arrivals",
    "LatencyLimit",
    "Load",
    "RateResult",
    "arrival_times",
    "highest_rate",
    "offer",
    "request_of",
    "service_time",
]

Arrivals = Literal["poisson", "constant"]
PATIENCE = 60.0  # seconds after which an answer counts as lost
PROBES = 5  # requests, one after another, whose median begins the search
FINE_ENOUGH = 1.15  # ratio of a rate that fails to the highest that holds
MOST_STEPS = 16
OK = 200


@dataclass(frozen=True)
class LatencyLimit:
    """Longest accepted time of a share of the requests.

    Attributes:
        percentile: Share of the requests in percent, in (0, 100).
        seconds: Time from the arrival of a request to the end of its answer.
    """

    percentile: float
    seconds: float

    def __str__(self) -> str:
        return f"p{self.percentile:g} of {1e3 * self.seconds:g} ms"


@dataclass(frozen=True)
class Load:
    """Requests of a measurement.

    Attributes:
        url: Address of the server, such as "http://127.0.0.1:8000".
        request: Bytes of one request.
        arrivals: "poisson" for independent clients, "constant" for equal gaps.
        duration: Least seconds of each rate.
        seed: Random seed of the arrivals.
    """

    url: str
    request: bytes
    arrivals: Arrivals
    duration: float
    seed: int


@dataclass(frozen=True)
class RateResult:
    """Outcome of one rate.

    Attributes:
        rate: Requests offered per second.
        requests: Requests that were offered.
        answered: Requests with status 200.
        statuses: Number of requests by status; "lost" without an answer.
        seconds: Percentiles of the time of all requests, where one that was not answered takes
            forever; None for a percentile that is infinite, or of too few requests.
        holds: Whether the limit holds; a rate that cannot hold any more ends early.
    """

    rate: float
    requests: int
    answered: int
    statuses: dict[str, int]
    seconds: dict[str, float | None]
    holds: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self)


def arrival_times(
    arrivals: Arrivals, rate: float, count: int, seed: int
) -> NDArray[np.float64]:
    """Return the seconds at which requests arrive, from 0.

    Args:
        arrivals: "poisson" or "constant".
        rate: Requests per second.
        count: Number of requests.
        seed: Random seed.
    """
    gaps = np.full(count, 1 / rate)
    if arrivals == "poisson":
        gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    times: NDArray[np.float64] = np.cumsum(gaps) - gaps[0]
    return times


def request_of(url: str, body: bytes, query: str) -> bytes:
    """Return a POST to /upscale.

    Args:
        url: Address of the server.
        body: Image file.
        query: Query string.

    Raises:
        UsageError: If the address is not one of HTTP.
    """
    host, port = _host_of(url)
    head = (
        f"POST /upscale?{query} HTTP/1.1",
        f"Host: {host}:{port}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


def service_time(load: Load) -> float:
    """Return the median time of a few requests, one after another.

    Args:
        load: The requests.

    Raises:
        ProviderError: If the server does not answer with an image.
    """

    async def measured() -> list[float]:
        times = []
        for _ in range(PROBES):
            began = time.perf_counter()
            status = await _ask(load)
            if status != str(OK):
                raise ProviderError(f"{load.url} must answer 200 to an image, got {status}")
            times.append(time.perf_counter() - began)
        return times

    return float(np.median(asyncio.run(measured())))


def offer(load: Load, rate: float, limit: LatencyLimit) -> RateResult:
    """Offer requests at a rate; it ends early where the limit cannot hold any more.

    Args:
        load: The requests; at least as many are made as the percentile needs.
        rate: Requests per second.
        limit: The limit.
    """
    count = max(math.ceil(rate * load.duration), runs_needed(limit.percentile))
    outcomes = asyncio.run(_offered(load, rate, count, limit))
    return _summary(rate, count, outcomes, limit)


def highest_rate(
    measure: Callable[[float], RateResult],
    rates: Sequence[float],
    begin: float,
) -> list[RateResult]:
    """Measure rates, up to the first that fails, or search the highest that holds.

    Args:
        measure: Offers one rate.
        rates: Rates to measure; empty to search by doubling, halving and then bisecting.
        begin: First rate of a search.

    Returns:
        Results in the order of measurement.
    """
    results: list[RateResult] = []
    if rates:
        for rate in sorted(rates):
            results.append(measure(rate))
            if not results[-1].holds:
                break
        return results
    low, high, rate = 0.0, math.inf, begin
    while len(results) < MOST_STEPS and high > FINE_ENOUGH * low:
        results.append(measure(rate))
        low, high = (rate, high) if results[-1].holds else (low, rate)
        rate = _between(low, high)
    return results


def _between(low: float, high: float) -> float:
    """Return the next rate between one that holds, or 0, and one that fails, or infinity."""
    if math.isinf(high):
        return 2 * low
    return math.sqrt(low * high) if low else high / 2


async def _offered(
    load: Load, rate: float, count: int, limit: LatencyLimit
) -> list[tuple[str, float]]:
    """Return status and seconds of every request that was offered."""
    due = arrival_times(load.arrivals, rate, count, load.seed)
    allowed = math.floor(count * (1 - limit.percentile / 100))
    outcomes: list[tuple[str, float]] = []
    missed = 0

    async def one(at: float) -> None:
        nonlocal missed
        status = await _ask(load)
        seconds = time.perf_counter() - at
        outcomes.append((status, seconds))
        missed += status != str(OK) or seconds > limit.seconds

    tasks = []
    origin = time.perf_counter()
    for at in origin + due:
        await asyncio.sleep(max(at - time.perf_counter(), 0))
        if missed > allowed:
            break
        tasks.append(asyncio.ensure_future(one(at)))
    await asyncio.gather(*tasks)
    return outcomes


async def _ask(load: Load) -> str:
    """Make one request on a connection of its own; return its status, or "lost"."""
    host, port = _host_of(load.url)
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return "lost"
    try:
        writer.write(load.request)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        return answer.split(b" ", 2)[1].decode()
    except (OSError, IndexError, asyncio.TimeoutError):
        return "lost"
    finally:
        writer.transport.abort()


def _summary(
    rate: float, count: int, outcomes: Sequence[tuple[str, float]], limit: LatencyLimit
) -> RateResult:
    times = np.array([s if status == str(OK) else math.inf for status, s in outcomes])
    seconds = {}
    for level in sorted({50.0, 90.0, limit.percentile}):
        value = float(np.percentile(times, level, method="inverted_cdf"))
        known = math.isfinite(value) and len(times) >= runs_needed(level)
        seconds[f"p{level:g}"] = value if known else None
    statuses = [status for status, _ in outcomes]
    held = np.percentile(times, limit.percentile, method="inverted_cdf") <= limit.seconds
    return RateResult(
        rate=rate,
        requests=len(outcomes),
        answered=statuses.count(str(OK)),
        statuses={status: statuses.count(status) for status in sorted(set(statuses))},
        seconds=seconds,
        holds=bool(held) and len(outcomes) == count,
    )


def _host_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url if re.match(r"\w+://", url) else f"http://{url}")
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port or parts.path not in ("", "/"):
        raise UsageError(f"url must be like http://127.0.0.1:8000, got {url}", option="url")
    return parts.hostname, port
