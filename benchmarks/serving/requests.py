"""Requests for load tests of the server: a valid one, and many malformed ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

import numpy as np
from PIL import Image

__all__ = ["Attack", "attacks", "picture_file", "request_for"]

ValueT = TypeVar("ValueT")

DRIP = 0.25
"""Seconds between the bytes of a slow client."""


@dataclass(frozen=True)
class Attack:
    """A malformed request.

    Attributes:
        kind: Name of the defect.
        pieces: Bytes of each send.
        pause: Seconds after each piece.
        leaves: Whether the client disconnects without reading.
    """

    kind: str
    pieces: Sequence[bytes]
    pause: float = 0.0
    leaves: bool = False


def picture_file(side: int, seed: int = 0) -> bytes:
    """Return a PNG of smooth noise, `side` pixels square."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG")
    return buffer.getvalue()


def request_for(body: bytes, query: str, *headers: str) -> bytes:
    """Return a POST to /upscale.

    Args:
        body: Body of the request.
        query: Query string.
        headers: Additional headers; a Content-Length replaces the true one.
    """
    lines = [f"POST /upscale?{query} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if not any(line.lower().startswith(("content-length", "transfer")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def attacks(count: int, seed: int = 0) -> Iterator[Attack]:
    """Yield malformed requests of every kind in turn.

    Args:
        count: Number of requests.
        seed: Random seed.
    """
    draw = np.random.default_rng(seed)
    for kind in islice(cycle([*ONE_PIECE, *SEVERAL_PIECES]), count):
        if kind in ONE_PIECE:
            yield Attack(kind, [ONE_PIECE[kind](draw)])
        else:
            yield SEVERAL_PIECES[kind](draw, kind)


def _random(draw: np.random.Generator, most: int) -> bytes:
    return draw.bytes(int(draw.integers(1, most)))


def _one_of(draw: np.random.Generator, *values: ValueT) -> ValueT:
    return values[int(draw.integers(len(values)))]


def _flipped(draw: np.random.Generator) -> bytes:
    body = bytearray(picture_file(32))
    for place in draw.integers(8, len(body), 40):
        body[place] ^= int(draw.integers(1, 256))
    return request_for(bytes(body), "scale=2")


def _broken_form(draw: np.random.Generator) -> bytes:
    body = _one_of(
        draw,
        b"--x\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\nno end",
        b"--x\r\nContent-Disposition: form-data; name=scale\r\n\r\n2\r\n--x--\r\n",
        b"--x\r\n: \r\n\r\n" + _random(draw, 500),
        b"--x\r\n\r\n" * 200,
    )
    kind = _one_of(draw, "form-data; boundary=x", "form-data", "form-data;=")
    return request_for(body, "scale=2", f"Content-Type: multipart/{kind}")


def _png(side: int, packed: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")):
        checksum = zlib.crc32(name + data)
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)
    return content


def _result_too_large(draw: np.random.Generator) -> bytes:
    """Return an image within the limits whose result is far beyond them."""
    side = int(draw.integers(200, 400))
    packed = zlib.compress(b"\x00" * (side * (3 * side + 1)))
    return request_for(_png(side, packed), "size=60000x60000")


def _no_http(draw: np.random.Generator) -> bytes:
    return _one_of(
        draw,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _random(draw, 200) + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /upscale HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /upscale HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"POST /upscale HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PO\x00ST /upscale HTTP/1.1\r\n\r\n",
    )


def _slow_head(draw: np.random.Generator, kind: str) -> Attack:
    head = request_for(b"", "scale=2")[:-4] + b"\r\nX-Slow: " + b"a" * 60
    return Attack(kind, [head[:20], *(head[i : i + 1] for i in range(20, 80))], DRIP)


def _slow_body(draw: np.random.Generator, kind: str) -> Attack:
    request = request_for(picture_file(32), "scale=2")
    cut = len(request) - int(draw.integers(100, 1000))
    pieces = [request[i : i + 1] for i in range(cut, cut + 20)]
    return Attack(kind, [request[:cut], *pieces], DRIP)


def _leaving(draw: np.random.Generator, kind: str) -> Attack:
    request = request_for(picture_file(48), "scale=4")
    return Attack(kind, [request[: int(draw.integers(20, len(request)))]], 0.05, leaves=True)


def _endless_chunks(draw: np.random.Generator, kind: str) -> Attack:
    """Return a chunked body of 40 MB, above the limit, without a stated length."""
    piece = b"%x\r\n" % (1 << 20) + draw.bytes(1 << 20) + b"\r\n"
    return Attack(kind, [request_for(b"", "scale=2", CHUNKED), *[piece] * 40])


TYPES = ("image/png", "image/jpeg", "text/html", "application/json", "image/svg+xml", ";;,")
TAILS = (b"zz\r\n\r\n", b"-1\r\n", b"5\r\nabc", b"3\r\nabcdef\r\n0\r\n\r\n")
LENGTHS = ("-5", "0x10", "1e3", "5, 6", "100")
QUERIES = (
    *("scale=nan", "scale=inf", "scale=-1", "scale=0", "scale=1e99999", "scale=2x", ""),
    *("size=0x0", "size=-1x5", "size=5", "size=9x9&scale=2", "scale=" + "9" * 5000),
    *("scale=2&format=exe", "scale=2&seed=-1", "scale=2&temperature=nan", "scal=2"),
    *("scale=2&temperature=1", "scale=%00", "scale=2&scale=3&resample=maybe"),
)
CHUNKED = "Transfer-Encoding: chunked"

ONE_PIECE: dict[str, Callable[[np.random.Generator], bytes]] = {
    "random bytes": lambda draw: request_for(_random(draw, 5000), "scale=2"),
    "a picture cut off": lambda draw: request_for(
        picture_file(32)[: -int(draw.integers(20, 1000))], "scale=2"
    ),
    "a picture with flipped bits": _flipped,
    "a lying type": lambda draw: request_for(
        b"<svg onload=alert(1)>" + _random(draw, 300),
        "scale=2",
        f"Content-Type: {_one_of(draw, *TYPES)}",
    ),
    "a broken form": _broken_form,
    "a bomb": lambda draw: request_for(
        _png(int(draw.integers(5000, 60000)), zlib.compress(b"")), "scale=2"
    ),
    "a result that is too large": _result_too_large,
    "a lying length": lambda draw: request_for(
        picture_file(32), "scale=2", f"Content-Length: {_one_of(draw, *LENGTHS)}"
    ),
    "a huge length": lambda draw: request_for(
        _random(draw, 5000), "scale=2", f"Content-Length: {10 ** int(draw.integers(9, 18))}"
    ),
    "no HTTP": _no_http,
    "broken chunks": lambda draw: request_for(b"", "scale=2", CHUNKED) + _one_of(draw, *TAILS),
    "a head that is too long": lambda draw: request_for(
        b"", "scale=2", "X-Long: " + "a" * int(draw.integers(20_000, 200_000))
    ),
    "absurd parameters": lambda draw: request_for(picture_file(16), _one_of(draw, *QUERIES)),
    "a packed body": lambda draw: request_for(
        zlib.compress(b"\x00" * int(draw.integers(10**6, 10**7))),
        "scale=2",
        "Content-Encoding: gzip",
    ),
}
SEVERAL_PIECES: dict[str, Callable[[np.random.Generator, str], Attack]] = {
    "a slow head": _slow_head,
    "a slow body": _slow_body,
    "a client that leaves": _leaving,
    "an endless body": _endless_chunks,
}
