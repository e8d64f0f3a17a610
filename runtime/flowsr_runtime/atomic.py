"""Write files and directories atomically: a crash leaves the old or the new content."""

import ctypes
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from flowsr_runtime.errors import OutputError

__all__ = [
    "locked",
    "needs_recovery",
    "recover_directory",
    "replace_directory",
    "replace_file",
]

LOCK_SECONDS: Final = 30.0
"""Longest wait for another process that writes the same directory."""

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def replace_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it into place.

    Args:
        path: File to write or to replace.
        data: Content of the file.

    Raises:
        OSError: If writing fails; the old content is intact.
    """
    temporary = path.with_name(f".{path.name[:32]}.{secrets.token_hex(4)}.tmp")
    try:
        _write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def replace_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write a directory next to its final place and move it there, under `locked`.

    Args:
        directory: Directory to create or replace, in an existing folder.
        files: Contents by relative path with forward slashes.

    Raises:
        OSError: If writing fails; the old content is intact.
    """
    fresh = _sibling(directory, "new")
    _remove_tree(fresh)  # left by a killed writer
    try:
        _write_tree(fresh, files)
        _move_into_place(fresh, directory)
    except BaseException:
        with suppress(OSError):
            _remove_tree(fresh)
        raise
    _sync_directory(directory.parent)
    with suppress(OSError):  # the next writer removes the rest
        _remove_tree(fresh)  # after an exchange it holds the old content
        _remove_tree(_sibling(directory, "old"))


def recover_directory(directory: Path) -> None:
    """Restore the old content if a writer was killed between two renames.

    Without an atomic exchange of two directories, the old content is moved aside before the
    new content is in place. Call this under `locked`.

    Args:
        directory: Directory to check.

    Raises:
        OSError: If the old content cannot be moved back.
    """
    if needs_recovery(directory):
        os.rename(_sibling(directory, "old"), directory)


def needs_recovery(directory: Path) -> bool:
    """Return whether `recover_directory` has old content to restore."""
    return (
        directory.name != "" and _sibling(directory, "old").is_dir() and not directory.exists()
    )


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, a hidden file next to it.

    Args:
        directory: Directory to write; its parent must exist.

    Yields:
        Nothing.

    Raises:
        OutputError: If another process holds the lock for longer than `LOCK_SECONDS`.
        OSError: If the lock file cannot be created.
    """
    path = _sibling(directory, "lock")
    descriptor = _acquire(path, directory)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before the release: nobody may lock an unlinked file
        os.close(descriptor)


def _acquire(path: Path, directory: Path) -> int:
    import fcntl  # absent on Windows, where bundles can be read but not written

    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(descriptor, path):
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise OutputError(f"another process is writing {directory}") from None
            time.sleep(0.05)
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _sibling(directory: Path, role: str) -> Path:
    return directory.with_name(f".{directory.name}.{role}")


def _write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    root.mkdir()
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_synced(path, data)
    for folder in {root, *(path for path in root.rglob("*") if path.is_dir())}:
        _sync_directory(folder)


def _move_into_place(fresh: Path, directory: Path) -> None:
    if not directory.exists():
        os.rename(fresh, directory)
        return
    if _exchange(fresh, directory):
        return
    aside = _sibling(directory, "old")
    _remove_tree(aside)
    os.rename(directory, aside)
    try:
        os.rename(fresh, directory)
    except BaseException:
        os.rename(aside, directory)
        raise


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories atomically; False if the system does not support it."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    return rename is not None and rename(*paths, _RENAME_EXCHANGE) == 0


def _write_synced(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    with suppress(OSError):  # some file systems cannot flush a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_tree(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)
