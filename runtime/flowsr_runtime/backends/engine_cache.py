"""Record the hashes of a library's engine cache, and remove files that changed."""

import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

from flowsr_runtime.atomic import replace_file

__all__ = ["remove_unrecorded", "record_hashes"]

logger = logging.getLogger(__name__)

_HASHES: Final = "sealed.json"


def record_hashes(folder: Path) -> None:
    """Record the hash of every file, after the library has closed them.

    Args:
        folder: The cache folder; nested folders are ignored.
    """
    try:
        hashes = {path.name: _digest(path) for path in _files(folder)}
        hashes = {name: digest for name, digest in hashes.items() if digest is not None}
        replace_file(folder / _HASHES, json.dumps(hashes, indent=1, sort_keys=True).encode())
    except OSError as error:
        logger.warning("%s cannot be reused: %s", folder, error.strerror or error)


def remove_unrecorded(folder: Path) -> list[str]:
    """Remove the files that differ from their recorded hash; the library rebuilds them.

    Args:
        folder: The cache folder, before the library opens it.

    Returns:
        Names of the removed files.

    Raises:
        OSError: If a file cannot be removed.
    """
    hashes: object = None
    with suppress(OSError, ValueError, RecursionError):
        hashes = json.loads((folder / _HASHES).read_bytes())
    known = hashes if isinstance(hashes, dict) else {}
    removed = []
    for path in _files(folder):
        digest = _digest(path)
        if digest is None or known.get(path.name) != digest:
            path.unlink()
            removed.append(path.name)
            logger.warning("%s changed and is built again", path)
    return removed


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != _HASHES)


def _digest(path: Path) -> str | None:
    """Return the hash of a file, None for a link, which is never trusted."""
    return None if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
