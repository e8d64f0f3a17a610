"""Download a released file, resume a download, check its hash."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowsr_export.fetch.drive import confirmed_url
from flowsr_export.fetch.releases import (
    RELEASES,
    Drive,
    Member,
    Page,
    Release,
    Source,
    Web,
)
from flowsr_export.fetch.remote_zip import extract_member
from flowsr_runtime.errors import (
    CheckpointError,
    DownloadError,
    FlowsrError,
    OutputError,
    UsageError,
)

__all__ = ["Fetched", "blob_id", "fetch"]

CHUNK_BYTES = 1 << 18
ARCHIVES = (b"PK", b"\x80\x02")  # zip, and PyTorch's older form
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
    base_url: str | None = None,
    start: Callable[[int, int], None] = lambda total, done: None,
    advance: Callable[[int], None] = lambda size: None,
) -> Fetched:
    """Download one released file into a folder and check it.

    An interrupted download is kept as `<name>.part`, and the next call resumes it; a file of a
    zip archive begins again.

    Args:
        name: A key of `RELEASES`.
        directory: Folder for the file, created if it is missing.
        base_url: URL of a folder with the file, None for its own places.
        start: Called when a download begins, with its total bytes (0 if unknown) and the
            bytes of the partial file.
        advance: Called with the bytes of each chunk.

    Returns:
        The file.

    Raises:
        UsageError: If the name or the scheme of the URL is unknown.
        DownloadError: If the download fails, or only a person can do it: the message has the
            page, the name of the link and where to put the file.
        CheckpointError: If the file is not the released one; it is removed then.
        OutputError: If the folder cannot be written.
    """
    if name not in RELEASES:
        raise UsageError(f"name must be one of {', '.join(RELEASES)}, got {name!r}")
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise UsageError(f"base_url must begin with http:// or https://, got {base_url!r}")
    release, path, part = RELEASES[name], directory / name, directory / f"{name}.part"
    source = release.source
    if base_url is not None:
        source = Web((f"{base_url.rstrip('/')}/{name}",))
    try:
        if path.is_file() and _is_released(path, release):
            return Fetched(path, path.stat().st_size, "present")
        if os.path.lexists(path):
            raise CheckpointError(f"{path} is not the released file; move it away first")
        url, resumed = _from_source(source, name, path, part, start, advance)
        if not _is_released(part, release):
            part.unlink()
            raise CheckpointError(f"{url} is not the released {name}; it was removed")
        size = part.stat().st_size
        os.replace(part, path)
    except FlowsrError:
        raise
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return Fetched(path, size, "resumed" if resumed else "downloaded")


def _from_source(
    source: Source,
    name: str,
    path: Path,
    part: Path,
    start: Callable[[int, int], None],
    advance: Callable[[int], None],
) -> tuple[str, bool]:
    """Download to `part`; return the address and whether an older part was resumed."""
    if isinstance(source, Page):
        raise DownloadError(
            f"{name} has no address of its own: open {source.url}, download {source.link} and "
            f"save it as {path}"
        )
    if isinstance(source, Member):
        with _network(source.url):
            try:
                extract_member(source.url, name, part, start, advance)
            except (zipfile.BadZipFile, zlib.error) as error:
                raise DownloadError(f"{source.url} does not hold {name}: {error}") from error
        return source.url, False
    urls: Sequence[str]
    if isinstance(source, Drive):
        with _network(source.page):
            confirmed = confirmed_url(source.id)
        if confirmed is None:
            raise DownloadError(
                f"{name} asks for a browser: open {source.page}, follow its link to Google "
                f"Drive (file {source.id}) and save it as {path}"
            )
        urls = [confirmed]
    else:
        urls = source.urls
    for place, url in enumerate(urls):
        try:
            with _network(url):
                return url, _download(url, part, start, advance)
        except DownloadError:  # another place may have the file
            if place == len(urls) - 1 or part.exists():
                raise
    raise AssertionError("a source has an address")


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Say what failed on the way to an address."""
    try:
        yield
    except FlowsrError:
        raise
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached: {error.reason}") from error
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise DownloadError(f"{url} broke off ({error}); fetch again to resume") from error


def _is_released(path: Path, release: Release) -> bool:
    """Return whether a file is the released one, as far as that is known."""
    if release.blob is not None:
        return blob_id(path) == release.blob
    if release.sha256 is not None:
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest().startswith(release.sha256)
    with path.open("rb") as stream:  # a page instead of a file is the usual mistake
        return stream.read(4).startswith(ARCHIVES)


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
