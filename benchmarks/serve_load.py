"""`flowsr-export serve` under load and under fire, on this machine's loopback address.

A server is started on a free port. Clients that do not wait keep its queue full: every answer
is counted, and the time of refusals. Then 200 malformed requests come: fuzzed bodies, lying
types, bombs, slow clients; the same process must still enlarge a picture. At last a server
enlarges thousands of small pictures, and its memory is read.

Example:
    python -m benchmarks.serve_load --json serve_load.json
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.serve_requests import Attack, attacks, picture_file, request_for

__all__ = ["Load", "Server", "fire", "load", "markdown", "serving"]

PATIENCE = 60.0
"""Seconds after which a client takes an answer for lost."""

SERVE = [sys.executable, "-c", "from flowsr_export.cli import main; main()", "serve"]


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        process: Its process.
        port: Where it listens on 127.0.0.1.
    """

    process: subprocess.Popen[str]
    port: int

    def resident(self) -> int:
        """Return the bytes of memory that it holds."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) * 1024


@dataclass
class Load:
    """What became of many requests.

    Attributes:
        seconds: Time from request to answer, by status.
        lost: Requests without an answer.
        retry: Values of Retry-After that were given.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    lost: int = 0
    retry: Counter[str] = field(default_factory=Counter)

    def note(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self.seconds.setdefault(status, []).append(seconds)

    def quantile(self, status: int, share: float) -> float:
        """Return a quantile of the seconds of a status; nan if there was no such answer."""
        values = self.seconds.get(status)
        return float(np.quantile(values, share)) if values else float("nan")


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """Run the built-in model's server on a free port until the block ends.

    Args:
        options: Further options of `flowsr-export serve`.

    Yields:
        The server.
    """
    command = [*SERVE, "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise click.ClickException(f"no server started: {line!r}")
            yield Server(process, int(found[1]))
        finally:
            process.terminate()
            process.wait(PATIENCE)


async def load(port: int, clients: int, seconds: float, pause: float, side: int) -> Load:
    """Keep a server full: every client asks again as soon as it is answered.

    Args:
        port: The server's.
        clients: How many there are.
        seconds: For how long new requests are made.
        pause: Seconds that a client waits after a refusal, on average.
        side: Rows and columns of the picture.

    Returns:
        What became of the requests.
    """
    result, draw = Load(), np.random.default_rng(0)
    request = request_for(picture_file(side), "scale=4")
    ends = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < ends:
            status = await _timed(port, request, result)
            # At random: clients in step would wait for each other, not for the server.
            await asyncio.sleep(draw.exponential(pause) if status == 429 else 0)

    await asyncio.gather(*(client() for _ in range(clients)))
    return result


async def burst(port: int, count: int, side: int) -> Load:
    """Make many requests in one moment.

    Args:
        port: The server's.
        count: How many.
        side: Rows and columns of the picture.

    Returns:
        What became of them.
    """
    result = Load()
    request = request_for(picture_file(side), "scale=4")
    await asyncio.gather(*(_timed(port, request, result) for _ in range(count)))
    return result


async def soak(port: int, count: int) -> Load:
    """Have many small pictures enlarged, one after the other.

    Args:
        port: The server's.
        count: How many.

    Returns:
        What became of them.
    """
    result = Load()
    request = request_for(picture_file(16), "scale=2")
    for _ in range(count):
        await _timed(port, request, result)
    return result


async def fire(port: int, made: list[Attack]) -> dict[str, Counter[str]]:
    """Make malformed requests, all at once.

    Args:
        port: The server's.
        made: The requests.

    Returns:
        How many times each kind ended with which status; "closed" is a connection that was
        closed without an answer, "left" a client that went away as it was meant to.
    """
    ends: dict[str, Counter[str]] = {}

    async def one(attack: Attack) -> None:
        try:
            end = await asyncio.wait_for(_attack(port, attack), PATIENCE)
        except asyncio.TimeoutError:
            end = "lost"
        ends.setdefault(attack.kind, Counter())[end] += 1

    await asyncio.gather(*(one(attack) for attack in made))
    return ends


async def _timed(port: int, request: bytes, result: Load) -> int:
    """Make a request on a connection of its own; the time counts from the connection."""
    began = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        status = int(head.split(b" ", 2)[1])
        result.note(status, time.perf_counter() - began)
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
    """Send a request piece by piece while reading, until there is an answer."""
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
    """Return the report as tables."""
    lines = ["| load | answers | lost | p50, ms | p99, ms | most, ms |", "|---" * 6 + "|"]
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
@click.option("--clients", default=16, show_default=True, help="Clients that never wait.")
@click.option("--seconds", default=20.0, show_default=True, help="Time of the load.")
@click.option("--pause", default=0.25, show_default=True, help="Mean seconds after a refusal.")
@click.option("--side", default=64, show_default=True, help="Rows and columns of a picture.")
@click.option("--burst", "crowd", default=100, show_default=True, help="Requests at once.")
@click.option("--malformed", default=200, show_default=True, help="Malformed requests.")
@click.option("--soak", "pictures", default=3000, show_default=True, help="Small pictures.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Figures as JSON.")
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
    with serving("--queue", "4") as server:
        resident = [server.resident()]
        full = asyncio.run(load(server.port, clients, seconds, pause, side))
        moment = asyncio.run(burst(server.port, crowd, side))
        resident.append(server.resident())
    # Places for every client, so that no request is refused before it is looked at.
    with serving("--queue", str(malformed), "--body-timeout", "3") as server:
        resident.append(server.resident())
        ends = asyncio.run(fire(server.port, list(attacks(malformed))))
        after = asyncio.run(burst(server.port, 1, side))
        resident.append(server.resident())
    with serving("--threads", "1") as server:
        asyncio.run(soak(server.port, 100))
        flat = [server.resident()]
        soaked = asyncio.run(soak(server.port, pictures))
        flat.append(server.resident())
        facts = {
            "alive": server.process.poll() is None,
            "enlarges afterwards": list(after.seconds) == [200],
            "retry_after": dict(full.retry),
            "resident_bytes": resident,
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
