"""The example of a service over HTTP in C++ answers pictures and refuses everything else."""

import http.client
import socket
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest

from flowsr_runtime import Upscaler, embedded_bundle
from tests.flowsr_runtime.cpp.library import ROOT, CppLibrary, run_cmake

WIDTH, HEIGHT = 16, 12
PIXELS = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
PICTURE = f"P6\n{WIDTH} {HEIGHT}\n255\n".encode() + PIXELS.tobytes()
SECONDS = 60


@pytest.fixture(scope="module")
def port(cpp: CppLibrary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a running service."""
    folder = tmp_path_factory.mktemp("service")
    install = ["cmake", "--install", str(cpp.folder), "--prefix", str(folder / "flowsr")]
    subprocess.run(install, check=True, capture_output=True)
    options = (f"-DCMAKE_PREFIX_PATH={folder / 'flowsr'}", "-DCMAKE_CXX_FLAGS=-Werror")
    run_cmake(ROOT / "examples", folder / "built", *options)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    command = [str(folder / "built" / "flowsr-http"), str(embedded_bundle()), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        assert service.stdout.readline().endswith(f"http://127.0.0.1:{number}\n")
        yield number
        service.kill()


def answer(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request(method, path, body)
    response = connection.getresponse()
    return response.status, response.read()


def test_the_answer_is_the_picture_that_python_makes(port: int) -> None:
    status, body = answer(port, "POST", "/?scale=2.5", PICTURE)
    with Upscaler.open() as upscaler:
        due = upscaler.upscale(PIXELS, 2.5)
    assert status == 200
    assert body == f"P6\n{due.shape[1]} {due.shape[0]}\n255\n".encode() + due.tobytes()


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/", b"", 405, "POST a picture"),
        ("POST", "/?scale=0.5", PICTURE, 422, "0.5"),
        ("POST", "/?scale=much", PICTURE, 422, "much"),
        ("POST", "/?scale=9999", PICTURE, 413, "too large"),
        ("POST", "/", PICTURE[:-1], 400, "damaged"),
        ("POST", "/", b"P6\n0 5\n255\n", 400, "damaged"),
        ("POST", "/", b"P6\n99999999999999999999 1\n255\n", 413, "exceeds 65536"),
        ("POST", "/", b"\x89PNG", 415, "P6"),
    ],
)
def test_everything_else_is_refused(
    port: int, method: str, path: str, body: bytes, status: int, message: str
) -> None:
    found, text = answer(port, method, path, body)
    assert found == status
    assert message in text.decode()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST / HTTP/1.1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /" + "a" * 20_000, 431),
    ],
)
def test_a_broken_head_is_refused(port: int, head: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
        client.sendall(head.encode())
        assert client.recv(64).split()[1] == str(status).encode()


def test_a_client_that_leaves_stops_nobody(port: int) -> None:
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
            client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\nP6")
    begin = time.monotonic()
    assert answer(port, "POST", "/?scale=2", PICTURE)[0] == 200
    assert time.monotonic() - begin < SECONDS
