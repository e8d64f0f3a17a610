"""Hooks with which PyInstaller finds the built-in bundle and what is imported late."""

from flowsr_runtime.pyinstaller.folders import hook_folders

__all__ = ["hook_folders"]
