"""A folder of files that a library writes and runs as code: only what we saw is given back."""

import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Final

from flowsr_runtime.atomic import replace_file

__all__ = ["remove_unrecorded", "record_hashes"]

logger = logging.getLogger(__name__)

_SEAL: Final = "sealed.json"


def record_hashes(folder: Path) -> None:
    """Write down the hash of every file, when the library has finished with them.

    Args:
        folder: The folder; its folders are left alone.
    """
    try:
        hashes = {path.name: _digest(path) for path in _files(folder)}
        hashes = {name: digest for name, digest in hashes.items() if digest is not None}
        replace_file(folder / _SEAL, json.dumps(hashes, indent=1, sort_keys=True).encode())
    except OSError as error:
        logger.warning("%s cannot be kept: %s", folder, error.strerror or error)


def remove_unrecorded(folder: Path) -> list[str]:
    """Remove the files that are not as they were sealed; the library makes them anew.

    Args:
        folder: The folder, before the library sees it.

    Returns:
        Names of the files that were removed.

    Raises:
        OSError: If one cannot be removed.
    """
    hashes: object = None
    with suppress(OSError, ValueError, RecursionError):
        hashes = json.loads((folder / _SEAL).read_bytes())
    known = hashes if isinstance(hashes, dict) else {}
    removed = []
    for path in _files(folder):
        digest = _digest(path)
        if digest is None or known.get(path.name) != digest:
            path.unlink()
            removed.append(path.name)
            logger.warning("%s is not as it was left and is made anew", path)
    return removed


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name != _SEAL)


def _digest(path: Path) -> str | None:
    """Return the hash of a file, None for a link: it is never one that we saw."""
    return None if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
