"""The server on a socket: slow, broken and leaving clients, and shutdown."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn

from flowsr_export.serve import http_server as serve_protocol
from flowsr_export.serve.admission import ServeLimits
from flowsr_export.serve.app import create_app
from flowsr_export.serve.http_server import listen, make_server, url_of
from flowsr_runtime import Upscaler, UsageError
from flowsr_runtime.upscaling.pool import UpscalerPool
from tests.flowsr_export.serve.serving import PATIENCE, HeldPool, in_thread, png
from tests.stand_in import picture

PIXELS = picture(9, 7, "server")
BODY = png(PIXELS)
NOISE = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), dtype=np.uint8)


@contextmanager
def running(pool: UpscalerPool, limits: ServeLimits | None = None) -> Iterator[uvicorn.Server]:
    """Serve in a thread; the server's port is on its socket."""
    with (
        listen("127.0.0.1", 0) as listener,
        in_thread(create_app(pool, limits), listener) as server,
    ):
        yield server


def port_of(server: uvicorn.Server) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])


def connect(server: uvicorn.Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=PATIENCE)


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def post(body: bytes = BODY, *headers: str) -> bytes:
    lines = ["POST /upscale?scale=2 HTTP/1.1", "Host: a", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def wait_for(pool: HeldPool, count: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(pool.pending) < count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_picture_goes_through_a_real_socket(bundle: Path) -> None:
    with (
        Upscaler.open(bundle, threads=1) as upscaler,
        UpscalerPool(upscaler) as pool,
        running(pool) as server,
        connect(server) as connection,
    ):
        connection.sendall(post(BODY, "Connection: close"))
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\x89PNG" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01 no HTTP\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"POST /upscale HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /upscale HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\nabcd",
    ],
)
def test_what_is_not_http_gets_one_line_of_json(held: HeldPool, request_bytes: bytes) -> None:
    with running(held.as_pool) as server, connect(server) as connection:
        connection.sendall(request_bytes)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body) == {"error": "Invalid HTTP request received."}


def test_a_head_that_drips_in_is_refused(
    held: HeldPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_protocol.TimeoutH11Protocol, "head_seconds", 0.5)
    with running(held.as_pool) as server, connect(server) as connection:
        connection.sendall(b"POST /upscale HTTP/1.1\r\nHost")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"a request's head must arrive within 0.5 s" in answer


def test_a_connection_that_asks_nothing_is_closed_without_a_word(
    held: HeldPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_protocol.TimeoutH11Protocol, "head_seconds", 0.1)
    with running(held.as_pool) as server, connect(server) as connection:
        assert everything(connection) == b""


def test_the_second_head_on_a_connection_has_a_deadline_too(
    held: HeldPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_protocol.TimeoutH11Protocol, "head_seconds", 1.0)
    with running(held.as_pool) as server, connect(server) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /hea")
        assert b"408" in everything(connection)


def test_a_refused_body_that_is_still_coming_does_not_cost_the_answer(held: HeldPool) -> None:
    limits = ServeLimits(max_body=1000)
    with running(held.as_pool, limits) as server, connect(server) as connection:
        connection.sendall(post(bytes(8 << 20), "Connection: close"))
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"at most 1000 bytes" in answer


def test_a_refused_body_without_an_end_is_cut_off(
    held: HeldPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowsr_export.serve.responses.LINGER_SECONDS", 0.1)
    monkeypatch.setattr(serve_protocol.TimeoutH11Protocol, "head_seconds", 0.5)
    with (
        running(held.as_pool, ServeLimits(max_body=1000)) as server,
        connect(server) as connection,
    ):
        connection.sendall(
            post(b"")[:-4].replace(b"Length: 0", b"Length: 9999999") + b"\r\n\r\n"
        )
        assert everything(connection).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_does_not_read_is_dropped(
    held: HeldPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_protocol.TimeoutH11Protocol, "stall_seconds", 0.1)
    with running(held.as_pool) as server, connect(server) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(post())
        wait_for(held, 1)
        held.pending[0].set_result(NOISE)
        deadline = time.monotonic() + PATIENCE
        while server.server_state.connections:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_server_that_ends_answers_what_was_asked(held: HeldPool) -> None:
    with running(held.as_pool) as server, connect(server) as connection:
        connection.sendall(post())
        wait_for(held, 1)
        server.should_exit = True
        threading.Timer(0.3, held.pending[0].set_result, [PIXELS]).start()
        assert everything(connection).startswith(b"HTTP/1.1 200 ")


def test_a_signal_closes_the_service_first(held: HeldPool) -> None:
    app = create_app(held.as_pool)
    server = make_server(app)
    server.handle_exit(15, None)
    assert (app.state.service.closing, server.should_exit) == (True, True)


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    with (
        listen("127.0.0.1", 0) as first,
        pytest.raises(UsageError, match=r"cannot serve on 127\.0\.0\.1 port \d+: Address"),
    ):
        listen("127.0.0.1", first.getsockname()[1])


def test_a_host_that_is_not_here_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot serve on no such host port 0: "):
        listen("no such host", 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_of_version_6_is_written_in_brackets() -> None:
    try:
        listener = listen("::1", 0)
    except UsageError as error:
        pytest.skip(str(error))
    with listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"
