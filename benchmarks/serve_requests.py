"""Requests for load tests of the server: a valid one, and many malformed ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from PIL import Image

__all__ = ["Attack", "attacks", "picture_file", "request_for"]

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
    kinds: list[Callable[[np.random.Generator], Attack]] = [
        _noise,
        _cut_off,
        _flipped,
        _lying_type,
        _broken_form,
        _bomb,
        _wide,
        _lying_length,
        _huge_length,
        _no_http,
        _broken_chunks,
        _long_head,
        _absurd_query,
        _encoded,
        _slow_head,
        _slow_body,
        _leaving,
        _endless_chunks,
    ]
    for make in islice(cycle(kinds), count):
        yield make(draw)


def _random(draw: np.random.Generator, most: int) -> bytes:
    return draw.bytes(int(draw.integers(1, most)))


def _noise(draw: np.random.Generator) -> Attack:
    return Attack("random bytes", [request_for(_random(draw, 5000), "scale=2")])


def _cut_off(draw: np.random.Generator) -> Attack:
    whole = picture_file(32)
    body = whole[: int(draw.integers(1, len(whole) - 20))]
    return Attack("a picture cut off", [request_for(body, "scale=2")])


def _flipped(draw: np.random.Generator) -> Attack:
    body = bytearray(picture_file(32))
    for place in draw.integers(8, len(body), 40):
        body[place] ^= int(draw.integers(1, 256))
    return Attack("a picture with flipped bits", [request_for(bytes(body), "scale=2")])


def _lying_type(draw: np.random.Generator) -> Attack:
    kinds = ("image/png", "image/jpeg", "text/html", "application/json", "image/svg+xml", ";;,")
    kind = kinds[int(draw.integers(len(kinds)))]
    body = b"<svg onload=alert(1)>" + _random(draw, 300)
    return Attack("a lying type", [request_for(body, "scale=2", f"Content-Type: {kind}")])


def _broken_form(draw: np.random.Generator) -> Attack:
    bodies = (
        b"--x\r\nContent-Disposition: form-data; name=a; filename=a\r\n\r\nno end",
        b"--x\r\nContent-Disposition: form-data; name=scale\r\n\r\n2\r\n--x--\r\n",
        b"--x\r\n: \r\n\r\n" + _random(draw, 500),
        b"--x\r\n\r\n" * 200,
    )
    kinds = ("multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data;=")
    kind = kinds[int(draw.integers(len(kinds)))]
    body = bodies[int(draw.integers(len(bodies)))]
    return Attack("a broken form", [request_for(body, "scale=2", f"Content-Type: {kind}")])


def _chunk(name: bytes, data: bytes) -> bytes:
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _png(width: int, height: int, packed: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _bomb(draw: np.random.Generator) -> Attack:
    side = int(draw.integers(5000, 60000))
    return Attack("a bomb", [request_for(_png(side, side, zlib.compress(b"")), "scale=2")])


def _wide(draw: np.random.Generator) -> Attack:
    """Return an image within the limits whose result is far beyond them."""
    side = int(draw.integers(200, 400))
    packed = zlib.compress(b"\x00" * (side * (3 * side + 1)))
    body = request_for(_png(side, side, packed), "size=60000x60000")
    return Attack("a result that is too large", [body])


def _lying_length(draw: np.random.Generator) -> Attack:
    body = picture_file(32)
    lengths = ("-5", "0x10", "1e3", "5, 6", str(len(body) - 20))
    length = lengths[int(draw.integers(len(lengths)))]
    request = request_for(body, "scale=2", f"Content-Length: {length}")
    return Attack("a lying length", [request])


def _huge_length(draw: np.random.Generator) -> Attack:
    length = 10 ** int(draw.integers(9, 18))
    request = request_for(_random(draw, 5000), "scale=2", f"Content-Length: {length}")
    return Attack("a huge length", [request])


def _no_http(draw: np.random.Generator) -> Attack:
    heads = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + _random(draw, 200) + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /upscale HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /upscale HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
        b"POST /upscale HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"PO\x00ST /upscale HTTP/1.1\r\n\r\n",
    )
    return Attack("no HTTP", [heads[int(draw.integers(len(heads)))]])


def _broken_chunks(draw: np.random.Generator) -> Attack:
    tails = (b"zz\r\n\r\n", b"-1\r\n", b"5\r\nabc", b"3\r\nabcdef\r\n0\r\n\r\n")
    head = request_for(b"", "scale=2", "Transfer-Encoding: chunked")
    return Attack("broken chunks", [head + tails[int(draw.integers(len(tails)))]])


def _long_head(draw: np.random.Generator) -> Attack:
    length = int(draw.integers(20_000, 200_000))
    request = request_for(b"", "scale=2", "X-Long: " + "a" * length)
    return Attack("a head that is too long", [request])


def _absurd_query(draw: np.random.Generator) -> Attack:
    queries = (
        *("scale=nan", "scale=inf", "scale=-1", "scale=0", "scale=1e99999", "scale=2x", ""),
        *("size=0x0", "size=-1x5", "size=5", "size=9x9&scale=2", "scale=" + "9" * 5000),
        *("scale=2&format=exe", "scale=2&seed=-1", "scale=2&temperature=nan", "scal=2"),
        *("scale=2&temperature=1", "scale=%00", "scale=2&scale=3&resample=maybe"),
    )
    query = queries[int(draw.integers(len(queries)))]
    return Attack("absurd parameters", [request_for(picture_file(16), query)])


def _encoded(draw: np.random.Generator) -> Attack:
    body = zlib.compress(b"\x00" * int(draw.integers(10**6, 10**7)))
    return Attack("a packed body", [request_for(body, "scale=2", "Content-Encoding: gzip")])


def _slow_head(draw: np.random.Generator) -> Attack:
    head = request_for(b"", "scale=2")[:-4] + b"\r\nX-Slow: " + b"a" * 60
    pieces = [head[index : index + 1] for index in range(len(head))]
    return Attack("a slow head", [head[:20], *pieces[20:80]], DRIP)


def _slow_body(draw: np.random.Generator) -> Attack:
    request = request_for(picture_file(32), "scale=2")
    cut = len(request) - int(draw.integers(100, 1000))
    pieces = [request[index : index + 1] for index in range(cut, cut + 20)]
    return Attack("a slow body", [request[:cut], *pieces], DRIP)


def _leaving(draw: np.random.Generator) -> Attack:
    request = request_for(picture_file(48), "scale=4")
    cut = int(draw.integers(20, len(request)))
    return Attack("a client that leaves", [request[:cut]], 0.05, leaves=True)


def _endless_chunks(draw: np.random.Generator) -> Attack:
    """Return a chunked body of 40 MB, above the limit, without a stated length."""
    head = request_for(b"", "scale=2", "Transfer-Encoding: chunked")
    piece = b"%x\r\n" % (1 << 20) + draw.bytes(1 << 20) + b"\r\n"
    return Attack("an endless body", [head, *[piece] * 40])
