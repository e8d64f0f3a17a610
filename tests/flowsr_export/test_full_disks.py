"""Streams on a full disk, and streams that are closed."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

EXPORT = [sys.executable, "-m", "flowsr_export"]
RUNTIME = [sys.executable, "-m", "flowsr_runtime"]
SECONDS = 30.0  # in which a server starts and ends on a busy machine
COMMANDS = ("--version", "--help", "upscale --help", "completion bash", "inspect", "doctor")


def through_shell(command: list[str], streams: str) -> subprocess.CompletedProcess[str]:
    """Run a command with redirections of the shell."""
    return subprocess.run(
        ["sh", "-c", f'"$@" {streams}', "sh", *command],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_disk_at_stdout_is_one_line(words: str) -> None:
    done = through_shell([*EXPORT, *words.split()], "> /dev/full")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.endswith("No space left on device\n")


@pytest.mark.parametrize("program", [[*EXPORT, "upscale"], RUNTIME], ids=["export", "runtime"])
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&-", "2> /dev/full"])
def test_an_image_is_made_whatever_the_streams_are(
    bundle: Path, photo: Path, tmp_path: Path, program: list[str], streams: str
) -> None:
    words = [str(bundle), str(photo), "-o", str(tmp_path / "o.png"), "--scale", "2"]
    done = through_shell([*program, *words], streams)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.png").is_file()
    assert "Traceback" not in done.stderr


def test_a_full_disk_at_stdout_of_the_runtime_is_one_line(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    words = [str(bundle), str(photo), "-o", str(tmp_path / "o.png"), "--scale", "2"]
    done = through_shell([*RUNTIME, *words], "> /dev/full")
    line = "python -m flowsr_runtime: stdout cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)
    assert (tmp_path / "o.png").is_file()


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-", "2> /dev/full"])
def test_a_server_starts_whatever_its_streams_are(bundle: Path, streams: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*EXPORT, "serve", str(bundle), "--port", str(port), "--threads", "1"]
    server = subprocess.Popen(["sh", "-c", f'exec "$@" {streams}', "sh", *words])
    try:
        assert is_healthy(port)
    finally:
        server.terminate()
        assert server.wait(SECONDS) in (0, -signal.SIGTERM)  # which uvicorn raises again


def is_healthy(port: int) -> bool:
    """Return whether a server answers before `SECONDS` have passed."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with suppress(OSError):
            url = f"http://127.0.0.1:{port}/healthz"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        time.sleep(0.1)
    return False
