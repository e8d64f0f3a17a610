"""Where PyInstaller finds the hooks; the entry point `pyinstaller40` names this function."""

from pathlib import Path

__all__ = ["hook_folders"]


def hook_folders() -> list[str]:
    """Return the folder of this file."""
    return [str(Path(__file__).parent)]
