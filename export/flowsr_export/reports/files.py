"""Write the files of a report: refuse existing ones, make the folder, write atomically."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flowsr_runtime.atomic import replace_file
from flowsr_runtime.errors import OutputError

__all__ = ["prepare_files", "report_paths", "write_files"]


def report_paths(
    output: Path, suffixes: Sequence[str], *, force: bool, name: str | None = None
) -> list[Path]:
    """Return the files of a report that has one file for each suffix, and check them.

    Args:
        output: Path of the files; one of the suffixes at its end is dropped.
        suffixes: One for each file, such as ".json".
        force: Overwrite existing files.
        name: Name of the files if `output` is an existing folder; None if folders have no
            special meaning.

    Raises:
        OutputError: As for `prepare_files`.
    """
    stem = output / name if name is not None and output.is_dir() else output
    stem = stem.with_suffix("") if stem.suffix in suffixes else stem
    paths = [stem.with_name(stem.name + suffix) for suffix in suffixes]
    prepare_files(paths, force=force)
    return paths


def prepare_files(paths: Iterable[Path], *, force: bool) -> None:
    """Check before slow work that files can be written; nothing is written.

    Args:
        paths: Files that will be written.
        force: Overwrite existing files.

    Raises:
        OutputError: If a file exists and `force` is false, or its folder cannot be made.
    """
    for path in paths:
        if path.exists() and not force:
            raise OutputError(f"{path} exists; force=True replaces it", option="force")
        above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise OutputError(f"{path} cannot be written: {above} is not a folder")
        if not os.access(above, os.W_OK):
            raise OutputError(f"{path} cannot be written: folder {above} is not writable")


def write_files(contents: Mapping[Path, str | bytes]) -> None:
    """Make the folders of files and write each file completely or not at all, text as UTF-8.

    Raises:
        OutputError: If a file cannot be written.
    """
    for path, content in contents.items():
        data = content.encode("utf-8") if isinstance(content, str) else content
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
