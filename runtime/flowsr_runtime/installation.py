"""How this copy was installed: its version, and the command that adds a library."""

import json
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

__all__ = ["__version__", "pip_command"]

_NAME = "flowsr-lp"

try:
    __version__ = version(_NAME)
except PackageNotFoundError:  # a source tree on the path
    __version__ = "unknown"


def pip_command(*extras: str) -> str:
    """Return the command that installs extras of this copy.

    Args:
        extras: Names of extras, such as "cpu".

    Returns:
        "pip install 'flowsr-lp[cpu]'"; for a copy installed from a clone the same with "." and
        the folder to run it in.
    """
    suffix = f"[{','.join(extras)}]" if extras else ""
    folder, editable = _clone()
    if folder is None:
        return f"pip install '{_NAME}{suffix}'"
    flag = "-e " if editable else ""
    place = "" if folder == Path.cwd() else f" in {folder}"
    return f"pip install {flag}'.{suffix}'{place}"


def _clone() -> tuple[Path | None, bool]:
    """Return the folder this copy was installed from, and whether it is used in place."""
    # A clone on the path has an egg-info beside the record that pip keeps.
    texts = (found.read_text("direct_url.json") for found in distributions(name=_NAME))
    text = next(filter(None, texts), None)
    origin = json.loads(text or "{}")
    url = urlsplit(origin.get("url", ""))
    if url.scheme != "file" or "dir_info" not in origin:
        return None, False
    folder = Path(url2pathname(url.path))
    return (folder if folder.is_dir() else None), bool(origin["dir_info"].get("editable"))
