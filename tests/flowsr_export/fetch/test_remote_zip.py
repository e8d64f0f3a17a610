"""Members of an archive on a server, and files behind a page that asks to confirm."""

import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flowsr_export.fetch.download import fetch
from flowsr_export.fetch.drive import confirmed_url
from flowsr_export.fetch.releases import RELEASES, Drive, Member
from flowsr_runtime.errors import DownloadError

NAME = "SRFlow_DF2K_4X.pth"
WEIGHTS = b"PK" + bytes(range(256)) * 8000


def archive(method: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as file:
        file.writestr("pretrained_models/other.pth", bytes(5_000_000))
        file.writestr(f"pretrained_models/{NAME}", WEIGHTS)
    return made.getvalue()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.sent = 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        body, wanted = self.server.files[self.path], self.headers.get("Range")
        kind = "text/html; charset=utf-8" if body.startswith(b"<") else "application/zip"
        total = len(body)
        if wanted is None:
            self.send_response(200)
        else:
            begin, end = wanted.removeprefix("bytes=").split("-")
            body = body[int(begin) : int(end) + 1 if end else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{total}")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += len(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_arrives_without_the_rest_of_its_archive(
    method: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/models.zip"] = archive(method)
    source = Member(f"{server.address}/models.zip")
    monkeypatch.setitem(RELEASES, NAME, replace(RELEASES[NAME], source=source))
    done = fetch(NAME, tmp_path)
    assert done.path.read_bytes() == WEIGHTS
    if method == zipfile.ZIP_STORED:
        assert server.sent < 5_000_000


def test_a_damaged_or_missing_member_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Member(f"{server.address}/models.zip")
    monkeypatch.setitem(RELEASES, NAME, replace(RELEASES[NAME], source=source))
    whole = archive(zipfile.ZIP_STORED)
    damaged = bytearray(whole)
    damaged[5_100_000] ^= 1
    server.files["/models.zip"] = bytes(damaged)
    with pytest.raises(DownloadError, match=f"does not hold {NAME}: Bad CRC-32"):
        fetch(NAME, tmp_path)
    server.files["/models.zip"] = b"<html>"
    with pytest.raises(DownloadError, match=f"does not hold {NAME}: File is not a zip file"):
        fetch(NAME, tmp_path)
    assert not (tmp_path / NAME).exists()


PAGE = b"""<html><form id="download-form" action="/download" method="get">
<input type="submit" value="Download anyway"><input type="hidden" name="id" value="abc">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="1-2">
</form></html>"""


def test_a_page_that_asks_to_confirm_is_confirmed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/uc?id=abc"] = PAGE
    server.files["/download?id=abc&confirm=t&uuid=1-2"] = WEIGHTS
    download = f"{server.address}/uc?id="
    assert (
        confirmed_url("abc", download) == f"{server.address}/download?id=abc&confirm=t&uuid=1-2"
    )
    monkeypatch.setattr(confirmed_url, "__defaults__", (download,))
    release = replace(RELEASES["SRFlow-LP.pth"], source=Drive("abc", "https://page"))
    monkeypatch.setitem(RELEASES, "SRFlow-LP.pth", release)
    assert fetch("SRFlow-LP.pth", tmp_path).path.read_bytes() == WEIGHTS


def test_a_page_that_asks_for_more_says_what_to_do(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/uc?id=abc"] = b"<html>Sign in</html>"
    monkeypatch.setattr(confirmed_url, "__defaults__", (f"{server.address}/uc?id=",))
    release = replace(RELEASES["SRFlow-LP.pth"], source=Drive("abc", "https://page"))
    monkeypatch.setitem(RELEASES, "SRFlow-LP.pth", release)
    with pytest.raises(DownloadError, match=r"asks for a browser: open https://page.*file abc"):
        fetch("SRFlow-LP.pth", tmp_path)
