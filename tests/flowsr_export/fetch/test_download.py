"""Downloads from a local server with ranges, interruptions and wrong files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from flowsr_export.cli import main
from flowsr_export.fetch.download import fetch
from flowsr_export.fetch.releases import RELEASES, Web
from flowsr_runtime.errors import CheckpointError, DownloadError, OutputError, UsageError

NAME = "edsr-baseline-linf.pth"
CONTENT = bytes(range(256)) * 4096  # one MiB, several chunks


class Server(ThreadingHTTPServer):
    """Answers each request in the way that its first path component names."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []

    def address(self, manner: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{manner}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        getattr(self, self.path.split("/")[1])(0 if wanted is None else int(wanted[6:-1]))

    def honest(self, start: int) -> None:
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.answer(206 if start else 200, CONTENT[start:], len(CONTENT) - start)

    def deaf(self, start: int) -> None:
        self.answer(200, CONTENT, len(CONTENT))

    def liar(self, start: int) -> None:
        self.answer(200, b"<html>sign in</html>", 20)

    def cut(self, start: int) -> None:
        self.answer(200, CONTENT[:300_000], len(CONTENT))
        self.close_connection = True

    def missing(self, start: int) -> None:
        self.send_error(404)

    def answer(self, status: int, body: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    blob = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    monkeypatch.setitem(RELEASES, NAME, replace(RELEASES[NAME], blob=blob))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    done = fetch(NAME, tmp_path / "new" / "folder", server.address("honest"))
    assert done.how == "downloaded"
    assert done.path.read_bytes() == CONTENT
    assert [path.name for path in done.path.parent.iterdir()] == [NAME]


def test_a_part_is_continued_where_it_stopped(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    done = fetch(NAME, tmp_path, server.address("honest"))
    assert done.how == "resumed"
    assert done.path.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-"]


def test_a_whole_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT)
    assert fetch(NAME, tmp_path, server.address("honest")).path.exists()


def test_a_server_that_ignores_ranges_sends_the_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[:1000])
    done = fetch(NAME, tmp_path, server.address("deaf"))
    assert done.how == "downloaded"
    assert done.path.read_bytes() == CONTENT


def test_a_file_that_is_there_and_right_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch(NAME, tmp_path, server.address("honest")).how == "present"
    assert server.ranges == []


def test_a_folder_of_that_name_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(CheckpointError, match="is not the released file; move it away"):
        fetch(NAME, tmp_path, server.address("honest"))


def test_a_wrong_file_of_that_name_is_refused_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="is not the released file; move it away"):
        fetch(NAME, tmp_path, server.address("honest"))
    assert (tmp_path / NAME).read_bytes() == b"mine"


def test_a_wrong_download_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not the released edsr.*it was removed"):
        fetch(NAME, tmp_path, server.address("liar"))
    assert list(tmp_path.iterdir()) == []


def test_a_spoilt_part_is_removed_and_the_next_try_works(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(b"\xff" * 1000)
    with pytest.raises(CheckpointError, match="it was removed"):
        fetch(NAME, tmp_path, server.address("honest"))
    assert fetch(NAME, tmp_path, server.address("honest")).how == "downloaded"


def test_a_cut_connection_keeps_what_came(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"300000 of 1048576 bytes arrived.*fetch again"):
        fetch(NAME, tmp_path, server.address("cut"))
    assert (tmp_path / f"{NAME}.part").read_bytes() == CONTENT[:300_000]
    assert fetch(NAME, tmp_path, server.address("honest")).how == "resumed"


def test_a_missing_address_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"missing/{NAME} answered 404 Not Found"):
        fetch(NAME, tmp_path, server.address("missing"))


def test_a_server_that_is_not_there_is_named(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot be reached: .*refused"):
        fetch(NAME, tmp_path, "http://127.0.0.1:9/")


def test_an_unwritable_folder_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        fetch(NAME, tmp_path / "file" / "under", server.address("honest"))


@pytest.mark.parametrize(
    ("name", "url", "rule"),
    [
        ("other.pth", "http://a", r"name must be one of edsr-baseline-linf\.pth"),
        (NAME, "file:///etc", "must begin with http"),
    ],
)
def test_unknown_names_and_addresses_are_refused(
    tmp_path: Path, name: str, url: str, rule: str
) -> None:
    with pytest.raises(UsageError, match=rule):
        fetch(name, tmp_path, url)


def test_the_command_prints_the_file_and_the_licence(server: Server, tmp_path: Path) -> None:
    address = server.address("honest")
    done = CliRunner().invoke(main, ["fetch", NAME, "-o", str(tmp_path), "--base-url", address])
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path / NAME}  1.0 MB  downloaded\n"
    note = f"not this project's license: {NAME}: {RELEASES[NAME].license}"
    assert done.stderr == f"flowsr-export: {note}\n"


def test_json_has_the_files(server: Server, tmp_path: Path) -> None:
    words = ["fetch", NAME, "-o", str(tmp_path), "--base-url", server.address("honest")]
    done = CliRunner().invoke(main, [*words, "--json", "--quiet"])
    path = tmp_path / NAME
    file = {"path": str(path), "bytes": path.stat().st_size, "how": "downloaded"}
    assert json.loads(done.stdout) == {
        "licenses": {NAME: RELEASES[NAME].license},
        "files": [file],
    }
    assert done.stderr == ""


def test_a_second_place_is_tried(server: Server, tmp_path: Path) -> None:
    urls = tuple(f"{server.address(manner)}/{NAME}" for manner in ("missing", "honest"))
    RELEASES[NAME] = replace(RELEASES[NAME], source=Web(urls))  # the fixture restores it
    assert fetch(NAME, tmp_path).path.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_a_sha256_tells_a_released_file(server: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    RELEASES[NAME] = replace(RELEASES[NAME], blob=None, sha256=digest[:8])
    assert fetch(NAME, tmp_path, server.address("honest")).how == "downloaded"
    (tmp_path / NAME).unlink()
    with pytest.raises(CheckpointError, match=f"is not the released {NAME}; it was removed"):
        fetch(NAME, tmp_path, server.address("liar"))


def test_a_page_is_no_checkpoint(server: Server, tmp_path: Path) -> None:
    RELEASES[NAME] = replace(RELEASES[NAME], blob=None)
    with pytest.raises(CheckpointError, match=f"is not the released {NAME}; it was removed"):
        fetch(NAME, tmp_path, server.address("liar"))


def test_a_file_for_a_browser_says_what_to_do(tmp_path: Path) -> None:
    line = r"open https://github.com/JNNNNYao/LINF, download RDN-LINF and save .*/RDN-LINF.pth"
    with pytest.raises(DownloadError, match=line):
        fetch("RDN-LINF.pth", tmp_path)


def test_all_fifteen_files_of_weights_are_listed() -> None:
    done = CliRunner().invoke(main, ["fetch", "--list", "--json"])
    files = json.loads(done.stdout)["files"]
    weights = {file["name"]: file for file in files if file["name"].endswith(".pth")}
    networks = ("alexnet-owt-7be5be79.pth", "vgg16-397923af.pth", "vgg19-dcbb9e9d.pth")
    assert len(weights.keys() - {*networks, "alex.pth"}) == 15
    assert all(file["license"] and file["check"] for file in files)
    assert weights["SRFlow_DF2K_4X.pth"]["license"].startswith("CC BY-NC-SA 4.0")
    text = CliRunner().invoke(main, ["fetch", "--list"]).stdout
    assert all(name in text for name in weights)


@pytest.mark.parametrize(("words", "missing"), [([], "NAME"), ([NAME], "--output")])
def test_what_is_missing_is_named(words: list[str], missing: str) -> None:
    done = CliRunner().invoke(main, ["fetch", *words])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{missing} is missing; fetch --list shows every file" in done.stderr
