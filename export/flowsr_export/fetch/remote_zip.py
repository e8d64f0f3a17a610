"""One member of a zip archive on a web server, read by ranges."""

from __future__ import annotations

import io
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

__all__ = ["extract_member"]

BLOCK_BYTES = 4 << 20  # asked for at once
CHUNK_BYTES = 1 << 18
TIMEOUT_SECONDS = 60.0


class RemoteFile(io.RawIOBase):
    """A file on a server that answers ranges."""

    def __init__(self, url: str) -> None:
        """Ask for the length of the file at `url`."""
        request = urllib.request.Request(url, headers={"Range": "bytes=0-0"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            stated = response.headers.get("Content-Range", "")
        length = stated.rpartition("/")[2]
        if not length.isdecimal():
            raise ConnectionError("the server sends no parts of files")
        self._url, self._length, self._at = url, int(length), 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read the next bytes."""
        end = min(self._at + len(buffer), self._length)
        if end <= self._at:
            return 0
        headers = {"Range": f"bytes={self._at}-{end - 1}"}
        request = urllib.request.Request(self._url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            data = response.read(end - self._at)
        if len(data) < end - self._at:
            raise ConnectionError(f"{len(data)} of {end - self._at} bytes arrived")
        buffer[: len(data)] = data
        self._at = end
        return len(data)


def extract_member(
    url: str,
    name: str,
    part: Path,
    start: Callable[[int, int], None],
    advance: Callable[[int], None],
) -> None:
    """Download one file of an archive; its CRC-32 is checked.

    Args:
        url: Address of the archive.
        name: Name of the file within it, in any folder.
        part: File to write.
        start: Called with the bytes of the file and 0.
        advance: Called with the bytes of each chunk.

    Raises:
        zipfile.BadZipFile: If there is no such archive or file, or it is damaged.
        OSError: If the server cannot be reached or the file cannot be written.
    """
    with zipfile.ZipFile(io.BufferedReader(RemoteFile(url), BLOCK_BYTES)) as archive:
        found = [e for e in archive.infolist() if PurePosixPath(e.filename).name == name]
        if len(found) != 1:
            raise zipfile.BadZipFile(f"it has {len(found)} files called {name}")
        start(found[0].file_size, 0)
        part.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(found[0]) as member, part.open("wb") as stream:
            while chunk := member.read(CHUNK_BYTES):
                stream.write(chunk)
                advance(len(chunk))
