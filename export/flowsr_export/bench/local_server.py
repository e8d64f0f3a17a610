"""A server of a bundle in a process of its own, for as long as it is measured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flowsr_runtime.errors import BackendError

__all__ = ["LocalServer", "serving"]

PATIENCE = 60.0  # seconds in which a server ends after it was asked to


@dataclass(frozen=True)
class LocalServer:
    """A running server on the loopback address.

    Attributes:
        process: Process of the server.
        url: Address, such as "http://127.0.0.1:8000".
        runs_on: Backend, provider and precision in words.
    """

    process: subprocess.Popen[str]
    url: str
    runs_on: str

    @property
    def port(self) -> int:
        """Port on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(options: Sequence[str] = ()) -> Iterator[LocalServer]:
    """Run `flowsr-export serve` on a free port until the block ends.

    Args:
        options: Further arguments of the command.

    Yields:
        The server, which accepts requests.

    Raises:
        BackendError: If it does not start; its own message is on stderr.
    """
    command = [sys.executable, "-m", "flowsr_export", "serve", "--port", "0", "--json"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BackendError(f"the server did not start, exit code {process.wait()}")
            about = json.loads(line)
            yield LocalServer(process, about["url"], about["runs_on"])
        finally:
            process.terminate()
            process.wait(PATIENCE)
