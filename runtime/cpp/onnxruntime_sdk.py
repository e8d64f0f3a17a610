"""Create a folder with ONNX Runtime's headers and library to build the C++ runtime.

The library is the one in the installed Python package; the headers come from a package of the
npm registry. They must not be newer than the library.

Example:
    python runtime/cpp/onnxruntime_sdk.py -o build/onnxruntime
    cmake -S runtime/cpp -B build/cpp -DFLOWSR_ONNXRUNTIME_ROOT=build/onnxruntime
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Final

import click

__all__ = ["SdkError", "fetch_headers", "library_path", "make_sdk"]

PACKAGE: Final = "com.github.asus4.onnxruntime@0.4.9"
"""A package for Unity (MIT), used only for its headers of ONNX Runtime."""

C_HEADER: Final = "onnxruntime_c_api.h"
CXX_HEADER: Final = "onnxruntime_cxx_api.h"
SECONDS: Final = 240
"""Time limit of the download."""


class SdkError(Exception):
    """A library or header that is missing."""


def library_path() -> Path:
    """Return the library inside the installed Python package.

    Raises:
        SdkError: If it is not installed.
    """
    spec = find_spec("onnxruntime")
    folder = Path(spec.origin).parent / "capi" if spec is not None and spec.origin else None
    libraries = sorted(folder.glob("libonnxruntime.so.*")) if folder is not None else []
    if not libraries:
        raise SdkError("onnxruntime is not installed; pip install '.[cpu]'")
    return libraries[0]


def fetch_headers(folder: Path) -> int:
    """Download the headers in a package of 150 MB, unless they exist.

    Args:
        folder: Folder for the headers; a missing parent is created.

    Returns:
        Number of their interface, the minor version.

    Raises:
        SdkError: If npm or the package is not available.
    """
    if not (folder / C_HEADER).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            _unpack(_packed(Path(name)), Path(name) / "include")
            (Path(name) / "include").rename(folder)
    match = re.search(
        r"^#define ORT_API_VERSION (\d+)", (folder / C_HEADER).read_text("utf-8"), re.MULTILINE
    )
    if match is None:
        raise SdkError(f"{C_HEADER} defines no ORT_API_VERSION")
    return int(match[1])


def make_sdk(folder: Path) -> str:
    """Create a folder with include/ and lib/.

    Args:
        folder: The folder.

    Returns:
        A summary in one line.

    Raises:
        SdkError: If the library or the headers are not available, or do not match.
    """
    library = library_path()
    version = library.name.partition(".so.")[2]
    number = fetch_headers(folder / "include")
    if number > int(version.split(".")[1]):
        raise SdkError(f"the headers are of 1.{number}, the library is {version}; upgrade it")
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    # Programs look for the first of these names, the linker for the second.
    for name in ("libonnxruntime.so.1", "libonnxruntime.so"):
        link = folder / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    return f"{folder}: headers of 1.{number}, library {version}"


def _packed(folder: Path) -> Path:
    """Download the package with npm."""
    npm = shutil.which("npm")
    if npm is None:
        raise SdkError("npm is not installed")
    command = [npm, "pack", PACKAGE, "--pack-destination", str(folder), "--silent"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise SdkError(f"npm could not fetch {PACKAGE}") from error
    return next(folder.glob("*.tgz"))


def _unpack(archive: Path, folder: Path) -> None:
    """Extract the headers of the first folder with the C++ interface."""
    with tarfile.open(archive) as tar:
        headers = [
            item for item in tar.getmembers() if item.isfile() and item.name.endswith(".h")
        ]
        folders = sorted(
            PurePosixPath(item.name).parent
            for item in headers
            if PurePosixPath(item.name).name == CXX_HEADER
        )
        if not folders:
            raise SdkError(f"{PACKAGE} holds no {CXX_HEADER}")
        folder.mkdir(parents=True, exist_ok=True)
        for item in headers:
            path, content = PurePosixPath(item.name), tar.extractfile(item)
            if path.parent == folders[0] and content is not None:
                (folder / path.name).write_bytes(content.read())


@click.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to create."
)
def main(output: Path) -> None:
    """Create a folder with ONNX Runtime's headers and library."""
    try:
        click.echo(make_sdk(output))
    except SdkError as error:
        click.echo(f"onnxruntime_sdk: {error}", err=True)
        sys.exit(4)


if __name__ == "__main__":
    main()
