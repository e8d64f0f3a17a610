"""A bundle: a directory with a deployed model, its manifest and its test images."""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowsr_runtime.atomic import (
    locked,
    needs_recovery,
    recover_directory,
    replace_directory,
    replace_file,
)
from flowsr_runtime.bundle.manifest import Manifest, SizeFixedGraph, StageGraphs
from flowsr_runtime.bundle.onnx_file import is_self_contained
from flowsr_runtime.errors import (
    BundleError,
    IntegrityError,
    OutputError,
    ReplacedError,
    UsageError,
)

if TYPE_CHECKING:  # at another place since Python 3.11
    from importlib.abc import Traversable

__all__ = [
    "MANIFEST_NAME",
    "Bundle",
    "embedded_bundle",
    "write_bundle",
    "extend_bundle",
    "check_replaceable",
    "fault_of",
    "writing",
]

MANIFEST_NAME = "bundle.json"

_LARGEST_MANIFEST = 1 << 24  # bytes; ours have some thousands


_TITLES = {"linf-lp": "LINF-LP", "srflow-lp": "SRFlow-LP"}


@dataclass(frozen=True, repr=False)
class Bundle:
    """A bundle on disk whose manifest has been checked; its files are checked when read.

    Attributes:
        path: The directory.
        manifest: Content of its bundle.json.
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Bundle":
        """Read and check the manifest of a bundle.

        Args:
            path: Bundle directory.

        Returns:
            The bundle.

        Raises:
            BundleError: If there is no bundle, or its manifest is damaged or of a newer schema.
        """
        directory = Path(path)
        try:
            _recover(Path(os.path.abspath(directory)))
            if not directory.exists():
                raise BundleError(f"bundle {directory} does not exist")
            if not directory.is_dir():
                raise BundleError(f"bundle {directory} is not a directory")
            text = _manifest_bytes(directory).decode()
        except FileNotFoundError as error:
            raise BundleError(f"{directory} is not a bundle: no {MANIFEST_NAME}") from error
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BundleError(
                f"{directory / MANIFEST_NAME} cannot be read: {reason}"
            ) from error
        return cls(directory, _parse(text, directory / MANIFEST_NAME))

    def read(self, name: str) -> bytes:
        """Return a file's content after checking it against the manifest.

        Args:
            name: Path inside the bundle, as listed in the manifest.

        Returns:
            The bytes whose hash was checked.

        Raises:
            BundleError: If the manifest does not list the file.
            IntegrityError: If the file is missing or differs from the manifest.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path} holds no {name}")
        path = self.path / name
        try:
            size = path.stat().st_size  # a file of another size may not fit in memory
            data = path.read_bytes() if size == entry.bytes else b""
        except OSError as error:
            self._check_same()
            reason = error.strerror or str(error)
            raise IntegrityError(f"{path} cannot be read: {reason}") from error
        fault = fault_of(data, entry.bytes, entry.sha256, MANIFEST_NAME, size)
        if fault is not None:
            self._check_same()
            raise IntegrityError(f"{path} is damaged: {fault}")
        if path.suffix == ".onnx" and not is_self_contained(data):
            raise BundleError(f"{path} has data in another file, which nothing checks")
        return data

    def _check_same(self) -> None:
        """Tell a file that is damaged from one of a bundle that was replaced meanwhile."""
        try:
            now = Bundle.open(self.path)
        except BundleError:
            return
        if now.manifest.raw != self.manifest.raw:
            raise ReplacedError(f"bundle {self.path} was replaced while it was read")

    def __repr__(self) -> str:
        return f"<Bundle {self.path.name}: {self.title}>"

    @property
    def title(self) -> str:
        """Family, scale and precisions in a few words: LINF-LP, any scale, fp32."""
        scale, family = self.manifest.scale, self.manifest.family
        scales = "any scale" if scale is None else f"scale {float(scale):g}"
        return ", ".join([_TITLES.get(family, family), scales, *self.precisions])

    @property
    def precisions(self) -> list[str]:
        """Precisions of the bundle's ONNX files, in the order of the manifest."""
        files = self.manifest.files.items()
        models = (entry.precision for name, entry in files if name.endswith(".onnx"))
        return list(dict.fromkeys(name for name in models if name is not None))

    def size_fixed(self, precision: str) -> list[SizeFixedGraph]:
        """Return the size-fixed graphs of a precision, in the order of the manifest."""
        return [one for one in self.manifest.graphs if one.precision == precision]

    def stage_graphs(self, precision: str) -> StageGraphs | None:
        """Return the graphs of a precision in two stages, None without any."""
        return next((x for x in self.manifest.stages if x.precision == precision), None)

    def model_name(self, precision: str = "fp32") -> str:
        """Return the name of the ONNX file of a precision.

        Args:
            precision: "fp32", "fp16" or "int8".

        Returns:
            Path inside the bundle.

        Raises:
            BundleError: If the bundle holds no such file, or several.
        """
        models = {
            name: entry.precision
            for name, entry in self.manifest.files.items()
            if name.endswith(".onnx") and entry.precision is not None
        }
        names = [name for name, value in models.items() if value == precision]
        if not names:
            present = ", ".join(sorted(set(models.values()))) or "no model at all"
            raise BundleError(f"{self.path} holds no {precision} model; it has {present}")
        if len(names) > 1:
            raise BundleError(f"{self.path} holds several {precision} models: {names}")
        return names[0]

    def model_bytes(self, precision: str = "fp32") -> bytes:
        """Return the ONNX file of a precision, checked.

        Args:
            precision: "fp32", "fp16" or "int8".

        Returns:
            The bytes whose hash was checked.

        Raises:
            BundleError: If the bundle holds no such file, or several.
            IntegrityError: If the file is missing or differs from the manifest.
        """
        return self.read(self.model_name(precision))

    def path_of(self, precision: str = "fp32") -> Path:
        """Return the path of the ONNX file of a precision after checking the file.

        Args:
            precision: "fp32", "fp16" or "int8".

        Returns:
            Path of the file.

        Raises:
            BundleError: If the bundle holds no such file, or several.
            IntegrityError: If the file is missing or differs from the manifest.
        """
        name = self.model_name(precision)
        self.read(name)
        return self.path / name

    def check_files(self) -> None:
        """Check every file against the manifest.

        Raises:
            IntegrityError: If a file is missing or differs from the manifest.
        """
        for name in self.manifest.files:
            self.read(name)


def embedded_bundle() -> Path:
    """Return the directory of the bundle in this package.

    Of a package in a zip file it is a copy, which is removed when the program ends.
    """
    folder = resources.files("flowsr_runtime") / "bundles" / "default"
    return folder if isinstance(folder, Path) else _unpacked()


@cache
def _unpacked() -> Path:
    """Copy the bundle in this package to a temporary directory."""
    parent = Path(tempfile.mkdtemp(prefix="flowsr-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    folder = resources.files("flowsr_runtime") / "bundles" / "default"
    _copy(folder, parent / "default")
    return parent / "default"


def _copy(source: "Traversable", target: Path) -> None:
    if source.is_file():
        target.write_bytes(source.read_bytes())
        return
    target.mkdir()
    for entry in source.iterdir():
        _copy(entry, target / entry.name)


def write_bundle(
    directory: str | os.PathLike[str],
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes | os.PathLike[str]],
    *,
    force: bool = False,
) -> Bundle:
    """Write a bundle atomically: at any moment the old or the new bundle exists.

    Args:
        directory: Directory to write; a missing parent is created.
        manifest: Content of bundle.json. Its "files" may hold facts about a file (precision,
            opset, …); sha256 and bytes are added here.
        files: Content, or a file to copy, by path inside the bundle.
        force: Replace an existing bundle.

    Returns:
        The written bundle.

    Raises:
        BundleError: If the manifest is invalid.
        OutputError: If the directory exists and `force` is not given, or is not a bundle, or
            writing fails; the old content is intact.
    """
    target = Path(os.path.abspath(directory))
    contents = {name: _content(source) for name, source in files.items()}
    text = _manifest_text(manifest, contents)
    parsed = _parse(text, target / MANIFEST_NAME)
    with writing(directory, f"bundle {directory}", make_parent=True):
        check_replaceable(target, force)
        replace_directory(target, {**contents, MANIFEST_NAME: text.encode()})
    return Bundle(Path(directory), parsed)


def extend_bundle(
    directory: str | os.PathLike[str],
    files: Mapping[str, bytes],
    described: Mapping[str, Mapping[str, Any]],
    graphs: Sequence[Mapping[str, Any]] = (),
    stages: Sequence[Mapping[str, Any]] = (),
    latent_graphs: Mapping[str, Any] | None = None,
) -> Bundle:
    """Add files to a bundle; bundle.json lists each file only after it is complete.

    Args:
        directory: The bundle; its other files and its engines stay.
        files: Content by path inside the bundle, of files not listed yet.
        described: Facts about each file for bundle.json, besides hash and size.
        graphs: Entries of the size-fixed graphs among the files.
        stages: Entries of the stage graphs among the files.
        latent_graphs: Entry of the graphs of latents among the files.

    Returns:
        The extended bundle.

    Raises:
        BundleError: If there is no bundle, or the manifest is invalid.
        OutputError: If it lists one of the files, writing fails, or another process holds the
            bundle too long.
    """
    with writing(directory, f"bundle {directory}") as target:
        raw = dict(Bundle.open(target).manifest.raw)
        for name in files:
            if name in raw["files"]:  # a file and its hash cannot be replaced in one step
                raise OutputError(f"{directory} holds {name} already")
        listed = {name: described.get(name, {}) for name in files}
        added = json.loads(_manifest_text({**raw, "files": listed}, files))["files"]
        raw["files"] = {**raw["files"], **added}
        for key, entries in (("graphs", graphs), ("stages", stages)):
            if entries:
                raw[key] = [*raw.get(key, []), *entries]
        if latent_graphs:
            raw["latent_graphs"] = dict(latent_graphs)
        text = json.dumps(raw, indent=1) + "\n"
        parsed = _parse(text, target / MANIFEST_NAME)
        for name, data in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(target / name, data)
        replace_file(target / MANIFEST_NAME, text.encode())
    return Bundle(Path(directory), parsed)


@contextmanager
def writing(
    directory: str | os.PathLike[str], name: object, *, make_parent: bool = False
) -> Iterator[Path]:
    """Lock a bundle and finish an interrupted replacement before it is written.

    Args:
        directory: The bundle.
        name: Name of what is written, for messages.
        make_parent: Create a missing parent folder.

    Yields:
        Absolute path of the bundle.

    Raises:
        OutputError: If writing fails, or another process holds the bundle too long.
    """
    target = Path(os.path.abspath(directory))
    try:
        if make_parent:
            target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            recover_directory(target)
            yield target
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{name} cannot be written: {reason}") from error


def fault_of(
    data: bytes, size: int, sha256: str, source: str, found: int | None = None
) -> str | None:
    """Return how content differs from the size and hash that `source` says, None if not.

    Args:
        data: Content; empty if `found` is another size.
        size: Size to expect.
        sha256: Digest to expect.
        source: Name of the file that says so.
        found: Size of the file, None for that of `data`.
    """
    found = len(data) if found is None else found
    if found != size or len(data) != size:
        return f"{found} bytes, {source} says {size}"
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        return f"sha256 {digest[:12]}…, {source} says {sha256[:12]}…"
    return None


def _manifest_bytes(directory: Path) -> bytes:
    path = directory / MANIFEST_NAME
    size = path.stat().st_size
    if size > _LARGEST_MANIFEST:
        raise BundleError(f"{path} has {size} bytes, more than {_LARGEST_MANIFEST}")
    return path.read_bytes()


def _content(source: bytes | os.PathLike[str]) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _manifest_text(manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> str:
    described = dict(manifest.get("files", {}))
    unknown = sorted(set(described) - set(contents))
    if unknown:
        raise UsageError(f"files in the manifest without content: {', '.join(unknown)}")
    entries = {
        name: {
            **described.get(name, {}),
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
        }
        for name, data in contents.items()
    }
    try:
        return json.dumps({**manifest, "files": entries}, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BundleError(f"manifest cannot be written as JSON: {error}") from error


def check_replaceable(directory: str | os.PathLike[str], force: bool) -> None:
    """Check that a bundle can be written, before slow work.

    Args:
        directory: Directory to write.
        force: Replace an existing bundle.

    Raises:
        OutputError: If the directory exists and `force` is not given, or is not a bundle, or
            its parent folder is not writable.
    """
    target = Path(os.path.abspath(directory))
    above = next(folder for folder in (*target.parents, target) if os.path.lexists(folder))
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise OutputError(f"bundle {target} cannot be written: folder {above} is not writable")
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not (target / MANIFEST_NAME).is_file():
        raise OutputError(f"{directory} exists and is not a bundle; give another name")
    if not force:
        raise OutputError(f"bundle {directory} exists; force=True replaces it", option="force")


def _recover(directory: Path) -> None:
    if not needs_recovery(directory):
        return
    try:
        with locked(directory):
            recover_directory(directory)
    except OSError as error:
        raise BundleError(
            f"bundle {directory} was being replaced and its old content cannot be put back: "
            f"{error}"
        ) from error


def _parse(text: str, path: Path) -> Manifest:
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # half of a surrogate pair is no character
            json.dumps(raw, ensure_ascii=False).encode()
        return Manifest.parse(raw)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path} is not valid JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
