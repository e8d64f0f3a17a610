"""Load test of `flowsr-export serve` on the loopback address.

Clients keep the queue of a server full, while responses are counted and timed. Then 200
malformed requests follow: fuzzed bodies, wrong types, decompression bombs, slow clients; the
same process must still upscale an image afterwards. Finally a server upscales thousands of
small images, and its memory is measured.

Example:
    python -m benchmarks.serving.load --json serve_load.json
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from benchmarks.serving.requests import Attack, attacks, picture_file, request_for
from flowsr_export.bench.local_server import LocalServer, serving

__all__ = ["Load", "fire", "load", "markdown"]

PATIENCE = 60.0
"""Seconds after which a response counts as lost."""


@dataclass
class Load:
    """Outcomes of many requests.

    Attributes:
        seconds: Times from request to response, by status.
        lost: Number of requests without a response.
        retry: Counts of the Retry-After values.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    lost: int = 0
    retry: Counter[str] = field(default_factory=Counter)

    def quantile(self, status: int, share: float) -> float:
        """Return a quantile of the seconds of a status, nan without such a response."""
        values = self.seconds.get(status)
        return float(np.quantile(values, share)) if values else float("nan")


def resident(server: LocalServer) -> int:
    """Return the resident memory of a server in bytes."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


async def load(port: int, clients: int, seconds: float, pause: float, side: int) -> Load:
    """Keep a server full with clients that repeat their requests immediately.

    Args:
        port: Port of the server.
        clients: Number of clients.
        seconds: Duration of the load.
        pause: Mean seconds that a client waits after status 429.
        side: Side of the image in pixels.

    Returns:
        Outcomes of the requests.
    """
    result, draw = Load(), np.random.default_rng(0)
    request = request_for(picture_file(side), "scale=4")
    ends = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < ends:
            status = await _timed(port, request, result)
            # Random, or the clients would move in step and wait for each other.
            await asyncio.sleep(draw.exponential(pause) if status == 429 else 0)

    await asyncio.gather(*(client() for _ in range(clients)))
    return result


async def burst(port: int, count: int, side: int) -> Load:
    """Make many requests at once.

    Args:
        port: Port of the server.
        count: Number of requests.
        side: Side of the image in pixels.

    Returns:
        Outcomes of the requests.
    """
    result = Load()
    request = request_for(picture_file(side), "scale=4")
    await asyncio.gather(*(_timed(port, request, result) for _ in range(count)))
    return result


async def soak(port: int, count: int) -> Load:
    """Upscale small images, one after another; see `burst`."""
    result = Load()
    request = request_for(picture_file(16), "scale=2")
    for _ in range(count):
        await _timed(port, request, result)
    return result


async def fire(port: int, requests: list[Attack]) -> dict[str, Counter[str]]:
    """Make malformed requests, all at once.

    Args:
        port: Port of the server.
        requests: The requests.

    Returns:
        Counts of the outcomes of each kind: a status, "closed" for a connection without a
        response, "left" for a client that disconnected on purpose, or "lost".
    """
    ends: dict[str, Counter[str]] = {}

    async def one(attack: Attack) -> None:
        try:
            end = await asyncio.wait_for(_attack(port, attack), PATIENCE)
        except asyncio.TimeoutError:
            end = "lost"
        ends.setdefault(attack.kind, Counter())[end] += 1

    await asyncio.gather(*(one(attack) for attack in requests))
    return ends


async def _timed(port: int, request: bytes, result: Load) -> int:
    """Make a request on a new connection; the time includes connecting."""
    began = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status = int(head.split(b" ", 2)[1])
        result.seconds.setdefault(status, []).append(time.perf_counter() - began)
        found = re.search(rb"retry-after: (\d+)", head, re.IGNORECASE)
        if found is not None:
            result.retry[found[1].decode()] += 1
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length is not None else 0)
        writer.close()
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
        result.lost += 1
        return 0
    return status


async def _attack(port: int, attack: Attack) -> str:
    """Send a request piece by piece, until a response arrives."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.ensure_future(reader.readuntil(b"\r\n"))
    try:
        for piece in attack.pieces:
            if answer.done():
                break
            writer.write(piece)
            await asyncio.wait({answer}, timeout=attack.pause)
        if attack.leaves:
            return "left"
        return (await answer).split(b" ", 2)[1].decode()
    except (OSError, asyncio.IncompleteReadError):
        return "closed"
    finally:
        answer.cancel()
        writer.transport.abort()


def markdown(full: Load, moment: Load, ends: dict[str, Counter[str]], facts: Any) -> str:
    """Return the report as Markdown tables."""
    lines = ["| load | responses | lost | p50, ms | p99, ms | most, ms |", "|---" * 6 + "|"]
    for name, result in (("full queue", full), ("burst", moment)):
        for status, values in sorted(result.seconds.items()):
            p50, p99 = (1000 * result.quantile(status, share) for share in (0.5, 0.99))
            row = f"| {name}, {status} | {len(values)} | {result.lost} | {p50:.1f} | {p99:.1f} "
            lines.append(f"{row}| {1000 * max(values):.1f} |")
    lines += ["", "| malformed | requests | ended with |", "|---" * 3 + "|"]
    for kind, counts in sorted(ends.items()):
        text = ", ".join(f"{end} ×{count}" for end, count in sorted(counts.items()))
        lines.append(f"| {kind} | {sum(counts.values())} | {text} |")
    lines += ["", "```json", json.dumps(facts, indent=1), "```"]
    return "\n".join(lines)


@click.command()
@click.option("--clients", default=16, show_default=True, help="Number of clients.")
@click.option("--seconds", default=20.0, show_default=True, help="Duration of the load.")
@click.option("--pause", default=0.25, show_default=True, help="Mean seconds after status 429.")
@click.option("--side", default=64, show_default=True, help="Side of an image in pixels.")
@click.option("--burst", "crowd", default=100, show_default=True, help="Requests at once.")
@click.option("--malformed", default=200, show_default=True, help="Malformed requests.")
@click.option("--soak", "pictures", default=3000, show_default=True, help="Small images.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="File of results.")
def main(
    clients: int,
    seconds: float,
    pause: float,
    side: int,
    crowd: int,
    malformed: int,
    pictures: int,
    target: Path | None,
) -> None:
    """Measure `flowsr-export serve` under load and under malformed requests."""
    with serving(["--queue", "4"]) as server:
        memory = [resident(server)]
        full = asyncio.run(load(server.port, clients, seconds, pause, side))
        moment = asyncio.run(burst(server.port, crowd, side))
        memory.append(resident(server))
    # The queue holds every request, so none is refused before it is examined.
    with serving(["--queue", str(malformed), "--body-timeout", "3"]) as server:
        memory.append(resident(server))
        ends = asyncio.run(fire(server.port, list(attacks(malformed))))
        after = asyncio.run(burst(server.port, 1, side))
        memory.append(resident(server))
    with serving(["--threads", "1"]) as server:
        asyncio.run(soak(server.port, 100))
        flat = [resident(server)]
        soaked = asyncio.run(soak(server.port, pictures))
        flat.append(resident(server))
        facts = {
            "alive": server.process.poll() is None,
            "enlarges afterwards": list(after.seconds) == [200],
            "retry_after": dict(full.retry),
            "resident_bytes": memory,
        }
    facts |= {
        "soaked": {status: len(values) for status, values in soaked.seconds.items()},
        "soak_resident_bytes": flat,
        "load_average": os.getloadavg()[0],
    }
    click.echo(markdown(full, moment, ends, facts))
    if target is not None:
        rows = {
            name: {status: sorted(values) for status, values in result.seconds.items()}
            for name, result in (("full", full), ("burst", moment))
        }
        report = {"load": rows, "malformed": ends, "facts": facts}
        target.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
