"""Download the authors' released checkpoints: resumed when cut off, kept only when right."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowsr_runtime.errors import CheckpointError, OutputError, UsageError

__all__ = ["DEFAULT_BASE_URL", "LICENCE_LINE", "RELEASES", "Fetched", "blob_id", "fetch"]

DEFAULT_BASE_URL = "https://raw.githubusercontent.com/liyuantsao/FlowSR-LP/8575f06/LINF-LP/"

# File name to git blob id at that commit: the sha1 of "blob <bytes>\0" and the content.
RELEASES = {
    "edsr-baseline-linf.pth": "079b74f0da7e23d37e7d1d395d1185ceaa5c80fa",
    "edsr-baseline-linf-LP.pth": "71d80edaf869e2b08f559c56ae5b1d305fe36e25",
    "rrdb-linf.pth": "c3c154628900c2f7c1a02ec473d9259c52b31d1d",
    "rrdb-linf-LP.pth": "442a54388ee4517c49bf29ff74418388fde558eb",
}

LICENCE_LINE = (
    "these files belong to the authors of FlowSR-LP (Tsao et al., CVPR 2024), not to this "
    "project's licence; read https://github.com/liyuantsao/FlowSR-LP before passing them on"
)

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Fetched:
    """One file that is now in place.

    Attributes:
        path: The file.
        size: Its bytes.
        how: Whether it was there before, came whole, or was continued from a part.
    """

    path: Path
    size: int
    how: Literal["present", "downloaded", "resumed"]


def fetch(
    name: str,
    directory: Path,
    base_url: str = DEFAULT_BASE_URL,
    start: Callable[[int, int], None] = lambda total, done: None,
    advance: Callable[[int], None] = lambda size: None,
) -> Fetched:
    """Bring one released file into a folder and check it against its git blob id.

    What has arrived is kept as `<name>.part` when the connection breaks, and the next call
    goes on from there.

    Args:
        name: A key of `RELEASES`.
        directory: Folder for the file, made if it is not there.
        base_url: Address of the folder that holds the file.
        start: Called once a download begins, with its bytes in all (0 if unknown) and those
            that an earlier call brought.
        advance: Called with the bytes of each piece that arrives.

    Returns:
        Where the file is and how it came there.

    Raises:
        UsageError: If the name or the kind of address is unknown.
        CheckpointError: If the file cannot be had, or what came is not the released file (it
            is removed).
        OutputError: If the folder cannot be written.
    """
    if name not in RELEASES:
        raise UsageError(f"name must be one of {', '.join(RELEASES)}, got {name!r}")
    if not base_url.startswith(("http://", "https://")):
        raise UsageError(f"base address must begin with http:// or https://, got {base_url!r}")
    path = directory / name
    part = directory / f"{name}.part"
    url = f"{base_url.rstrip('/')}/{name}"
    try:
        if path.is_file() and blob_id(path) == RELEASES[name]:
            return Fetched(path, path.stat().st_size, "present")
        if os.path.lexists(path):
            raise CheckpointError(
                f"{path} is not the released file; move it away and fetch again"
            )
        directory.mkdir(parents=True, exist_ok=True)
        resumed = _download(url, part, start, advance)
        if blob_id(part) != RELEASES[name]:
            part.unlink()
            raise CheckpointError(f"{url} is not the released {name}; it was removed")
        size = part.stat().st_size
        os.replace(part, path)
    except urllib.error.HTTPError as error:
        raise CheckpointError(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise CheckpointError(f"{url} cannot be reached: {error.reason}") from error
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise CheckpointError(f"{url} broke off ({error}); fetch again to go on") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return Fetched(path, size, "resumed" if resumed else "downloaded")


def blob_id(path: Path) -> str:
    """Return a file's git blob id, 40 hexadecimal digits."""
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _download(
    url: str, part: Path, start: Callable[[int, int], None], advance: Callable[[int], None]
) -> bool:
    """Bring `part` up to the whole file; return whether an older part was continued."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The part is the whole file already, or longer: its blob id decides.
            return True
        raise
    with response:
        # A server that ignores Range answers 200 with the whole file: start over.
        resumed = bool(response.status == http.client.PARTIAL_CONTENT)
        done = have if resumed else 0
        left = response.headers.get("Content-Length")
        total = done + int(left) if left is not None else 0
        start(total, done)
        with part.open("ab" if resumed else "wb") as stream:
            while chunk := response.read(CHUNK_BYTES):
                stream.write(chunk)
                advance(len(chunk))
    size = part.stat().st_size
    if total and size < total:
        raise ConnectionError(f"{size} of {total} bytes arrived")
    return resumed
