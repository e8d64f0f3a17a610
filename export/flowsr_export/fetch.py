"""Download the authors' released checkpoints, resume downloads, check their hashes."""

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

__all__ = ["DEFAULT_BASE_URL", "LICENSE_LINE", "RELEASES", "Fetched", "blob_id", "fetch"]

DEFAULT_BASE_URL = "https://raw.githubusercontent.com/liyuantsao/FlowSR-LP/8575f06/LINF-LP/"

# File name to git blob id at that commit: the sha1 of "blob <bytes>\0" and the content.
RELEASES = {
    "edsr-baseline-linf.pth": "079b74f0da7e23d37e7d1d395d1185ceaa5c80fa",
    "edsr-baseline-linf-LP.pth": "71d80edaf869e2b08f559c56ae5b1d305fe36e25",
    "rrdb-linf.pth": "c3c154628900c2f7c1a02ec473d9259c52b31d1d",
    "rrdb-linf-LP.pth": "442a54388ee4517c49bf29ff74418388fde558eb",
}

LICENSE_LINE = (
    "these files belong to the authors of FlowSR-LP (Tsao et al., CVPR 2024), not to this "
    "project's license; read https://github.com/liyuantsao/FlowSR-LP before passing them on"
)

CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on disk.

    Attributes:
        path: The file.
        size: Bytes of the file.
        how: Whether the file existed, was downloaded, or was resumed from a partial file.
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
    """Download one released file into a folder and check its git blob id.

    An interrupted download is kept as `<name>.part`, and the next call resumes it.

    Args:
        name: A key of `RELEASES`.
        directory: Folder for the file, created if it is missing.
        base_url: URL of the folder with the file.
        start: Called when a download begins, with its total bytes (0 if unknown) and the
            bytes of the partial file.
        advance: Called with the bytes of each chunk.

    Returns:
        The file.

    Raises:
        UsageError: If the name or the scheme of the URL is unknown.
        DownloadError: If the download fails.
        CheckpointError: If the file is not the released one; it is removed then.
        OutputError: If the folder cannot be written.
    """
    from flowsr_runtime.errors import CheckpointError, DownloadError, OutputError, UsageError

    if name not in RELEASES:
        raise UsageError(f"name must be one of {', '.join(RELEASES)}, got {name!r}")
    if not base_url.startswith(("http://", "https://")):
        raise UsageError(f"base_url must begin with http:// or https://, got {base_url!r}")
    path = directory / name
    part = directory / f"{name}.part"
    url = f"{base_url.rstrip('/')}/{name}"
    try:
        if path.is_file() and blob_id(path) == RELEASES[name]:
            return Fetched(path, path.stat().st_size, "present")
        if os.path.lexists(path):
            raise CheckpointError(f"{path} is not the released file; move it away first")
        resumed = _download(url, part, start, advance)
        if blob_id(part) != RELEASES[name]:
            part.unlink()
            raise CheckpointError(f"{url} is not the released {name}; it was removed")
        size = part.stat().st_size
        os.replace(part, path)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached: {error.reason}") from error
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise DownloadError(f"{url} broke off ({error}); fetch again to resume") from error
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
    """Complete the file `part`; return whether an older part was resumed."""
    size_before = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={size_before}-"} if size_before else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The part is already complete, or too long: its blob id decides.
            return True
        raise
    with response:
        # A server that ignores Range answers 200 with the whole file: start over.
        resumed = bool(response.status == http.client.PARTIAL_CONTENT)
        done = size_before if resumed else 0
        left = response.headers.get("Content-Length")
        total = done + int(left) if left is not None else 0
        start(total, done)
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab" if resumed else "wb") as stream:
            while chunk := response.read(CHUNK_BYTES):
                stream.write(chunk)
                advance(len(chunk))
    size = part.stat().st_size
    if total and size < total:
        raise ConnectionError(f"{size} of {total} bytes arrived")
    return resumed
