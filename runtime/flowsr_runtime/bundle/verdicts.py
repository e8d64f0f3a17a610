"""Keep the verdicts of self-tests in the user's cache, one small file for each."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowsr_runtime.atomic import replace_file
from flowsr_runtime.cuda.driver import describe_gpu

__all__ = ["Verdict", "cache_folder", "device_name", "kept_verdict", "kept_verdicts", "keep"]

_SCHEMA: Final = 1
_LARGEST: Final = 65536
"""Bytes of the largest file that is read."""


@dataclass(frozen=True)
class Verdict:
    """The result of one self-test.

    Attributes:
        key: Facts that decide the result, by name: "interface", "model" and "golden" (SHA-256),
            "backend", "provider", "library", "device", "precision", "options" and "engines".
        passed: Whether the golden pair was met.
        measured: The largest difference in words, or the reason of a miss.
    """

    key: Mapping[str, str]
    passed: bool
    measured: str

    def __str__(self) -> str:
        key = self.key
        place = f"{key['backend']} {key['provider']}, {key['precision']}"
        options = f" ({key['options']})" if key["options"] else ""
        result = "passed" if self.passed else "FAILED"
        library = f"{key['library']} on {key['device']}"
        return f"{result}, {self.measured}: {place}{options}, {library}, {key['interface']}"

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON values."""
        return {
            "schema": _SCHEMA,
            "key": dict(self.key),
            "passed": self.passed,
            "measured": self.measured,
        }


def cache_folder() -> Path | None:
    """Return the folder of the verdicts, which need not exist; None without a home."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    elif sys.platform == "darwin":
        base = _below_home("Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):  # the specification: a relative path is ignored
            base = _below_home(".cache")
    return Path(base, "flowsr-lp", "self-tests") if os.path.isabs(base) else None


def device_name(provider: str, device: int) -> str:
    """Return the processor or the GPU that a provider runs on, as a key names it.

    Args:
        provider: Provider of a session.
        device: GPU index.
    """
    if provider in ("cuda", "tensorrt"):
        return describe_gpu(device) or f"GPU {device}"
    return f"{_processor()} ({platform.machine()})"


def kept_verdict(key: Mapping[str, str]) -> Verdict | None:
    """Return the verdict that was kept for a key, None without a readable one."""
    path = _path(key)
    verdict = None if path is None else _read(path)
    return verdict if verdict is not None and verdict.key == dict(key) else None


def kept_verdicts() -> Iterator[Verdict]:
    """Yield every verdict of the user's cache, in the order of the file names."""
    folder = cache_folder()
    try:
        paths = sorted(folder.glob("*.json")) if folder is not None else []
    except OSError:
        return
    yield from filter(None, map(_read, paths))


def keep(verdict: Verdict) -> bool:
    """Keep a verdict for the next session.

    Args:
        verdict: Verdict to keep.

    Returns:
        Whether it was kept; not without a home or where the folder cannot be written.
    """
    path = _path(verdict.key)
    if path is None:
        return False
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, (json.dumps(verdict.as_dict(), indent=1) + "\n").encode())
    except OSError:
        return False
    return True


def _path(key: Mapping[str, str]) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    text = "".join(f"{name}={value}\n" for name, value in sorted(key.items()))
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> Verdict | None:
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("schema") != _SCHEMA:
        return None
    key, passed, measured = (content.get(name) for name in ("key", "passed", "measured"))
    if not isinstance(key, dict) or not isinstance(passed, bool) or type(measured) is not str:
        return None
    is_text = all(type(value) is str for value in key.values())
    return Verdict(key, passed, measured) if is_text and set(key) >= _NAMES else None


_NAMES: Final = frozenset(
    (
        *("interface", "model", "golden", "backend", "provider", "library", "device"),
        *("precision", "options", "engines"),
    )
)


def _below_home(name: str) -> str:
    home = os.path.expanduser("~")
    return os.path.join(home, name) if os.path.isabs(home) else ""


def _processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model name of the processor."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown processor"
