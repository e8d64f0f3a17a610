"""The engines of a bundle: written whole, found by their key, checked before use.

Each engine is a pure plan, `<name>.engine`, as trtexec and C++ load it. `<name>.engine.json`
beside it holds its key, its hash and what is known of it; without that file the plan is not
part of the store.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowsr_runtime.atomic import locked, recover_directory, replace_file
from flowsr_runtime.bundle.engine_entry import EngineEntry
from flowsr_runtime.bundle.engine_key import FLAVOURS, EngineKey, Option, Profile, Range
from flowsr_runtime.errors import BundleError, IntegrityError, OutputError

__all__ = [
    "FLAVOURS",
    "Difference",
    "EngineEntry",
    "EngineKey",
    "EngineStore",
    "Option",
    "Profile",
    "Range",
    "Removal",
]

FOLDER: Final = "engines"
_REMEDY: Final = "prune the bundle's engines to remove it"


@dataclass(frozen=True)
class Difference:
    """One field in which an engine that is there is not the engine that is wanted.

    Attributes:
        name: Path of the engine inside the bundle.
        field: Field of the key, such as "version" or "profiles[0].input.max".
        wanted: Its value in the key that was looked for.
        found: Its value in the engine's key.
    """

    name: str
    field: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.name}: {self.field} is {self.found}, wanted {self.wanted}"


@dataclass(frozen=True)
class Removal:
    """A file that `EngineStore.prune` removed, or would remove.

    Attributes:
        name: Path inside the bundle.
        reason: Why, in a few words.
        size: Its bytes.
    """

    name: str
    reason: str
    size: int


class EngineStore:
    """The engines of one bundle; several processes may use it at once."""

    def __init__(self, bundle: str | os.PathLike[str]) -> None:
        """Name the bundle.

        Args:
            bundle: Bundle directory; it need not hold an engine.
        """
        self.bundle = Path(bundle)

    def entries(self) -> list[EngineEntry]:
        """Return the engines by name. The plans themselves are checked by `read`.

        Raises:
            IntegrityError: If a description is damaged.
            BundleError: If one is of a newer schema.
        """
        paths = sorted(self._folder().glob("*.engine.json"))
        return [entry for entry in map(self._describe, paths) if entry is not None]

    def find(self, key: EngineKey) -> EngineEntry | None:
        """Return the engine whose key is equal in every field, None if there is none.

        Raises:
            IntegrityError: If its description is damaged.
            BundleError: If it is of a newer schema.
        """
        entry = self._describe(self._description(key))
        return entry if entry is not None and entry.key == key else None

    def add(self, key: EngineKey, plan: bytes, facts: Mapping[str, Any]) -> EngineEntry:
        """Write an engine. A sound one with the same key is kept and returned.

        Args:
            key: What it was built of and for.
            plan: What the builder gave.
            facts: What else is known, as JSON takes it.

        Returns:
            The engine that is in the store now.

        Raises:
            BundleError: If there is no bundle.
            UsageError: If `facts` cannot be written as JSON.
            OutputError: If the disk refuses, or another process holds the bundle too long.
        """
        entry = EngineEntry.of(key, plan, facts)
        with self._writing():
            kept = self._sound(key)
            if kept is not None:
                return kept
            description = self._description(key)
            description.parent.mkdir(exist_ok=True)
            # The description goes first and comes last: at no moment does it name another plan.
            description.unlink(missing_ok=True)
            replace_file(description.with_suffix(""), plan)
            replace_file(description, entry.render())
        return entry

    def read(self, entry: EngineEntry) -> bytes:
        """Return a plan after checking it.

        Args:
            entry: What `find`, `matching` or `entries` gave.

        Returns:
            The very bytes whose hash was checked.

        Raises:
            IntegrityError: If the plan is missing or is not the one that was written.
        """
        path = self._folder() / Path(entry.name).name
        data = _read(path)
        if len(data) != entry.size:
            raise IntegrityError(
                f"{path} is damaged: {len(data)} bytes, its description says {entry.size}; "
                f"{_REMEDY}"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256:
            raise IntegrityError(
                f"{path} is damaged: sha256 {digest[:12]}…, "
                f"its description says {entry.sha256[:12]}…; {_REMEDY}"
            )
        return data

    def cache_path(self, entry: EngineEntry, device: str) -> Path:
        """Return where kernels lie that a library compiles for an engine on a device.

        Args:
            entry: The engine.
            device: What tells the device and its driver from others.
        """
        digest = hashlib.sha256(device.encode()).hexdigest()
        return self._folder() / f"{Path(entry.name).name}.{digest[:12]}.cache"

    def explain(self, key: EngineKey) -> list[Difference]:
        """Return field by field why each engine is not the one of a key, nearest first."""
        wanted = key.flat()
        return _nearest_first(
            [_differences(entry, wanted, entry.key.flat()) for entry in self.entries()]
        )

    def matching(
        self,
        onnx_sha256: str,
        flavour: str,
        version: str,
        compute_capability: str,
        precision: str,
        gpu_name: str | None = None,
    ) -> list[EngineEntry]:
        """Return the engines that a device can load, those made for it alone first.

        Args:
            onnx_sha256: Digest of the bundle's ONNX file.
            flavour: "tensorrt" or "tensorrt_rtx".
            version: Version of the library that is installed.
            compute_capability: The device's, such as "8.9".
            precision: Precision of the ONNX file.
            gpu_name: The device's name.

        Returns:
            The engines; which profile covers a shape is for the caller to see.

        Raises:
            IntegrityError: If a description is damaged.
        """
        misfits = self._misfits(
            onnx_sha256, flavour, version, compute_capability, precision, gpu_name
        )
        fitting = [entry for entry, differences in misfits if not differences]
        return sorted(fitting, key=lambda entry: len(entry.key.compute_capability) or 99)

    def explain_mismatch(
        self,
        onnx_sha256: str,
        flavour: str,
        version: str,
        compute_capability: str,
        precision: str,
        gpu_name: str | None = None,
    ) -> list[Difference]:
        """Return why each engine that `matching` leaves out cannot be loaded, nearest first."""
        misfits = self._misfits(
            onnx_sha256, flavour, version, compute_capability, precision, gpu_name
        )
        return _nearest_first([differences for _, differences in misfits])

    def _misfits(
        self,
        onnx_sha256: str,
        flavour: str,
        version: str,
        compute_capability: str,
        precision: str,
        gpu_name: str | None,
    ) -> list[tuple[EngineEntry, list[Difference]]]:
        return [
            (entry, [Difference(entry.name, name, *pair) for name, pair in misfits.items()])
            for entry in self.entries()
            for misfits in [
                entry.key.incompatibilities(
                    onnx_sha256=onnx_sha256,
                    flavour=flavour,
                    version=version,
                    compute_capability=compute_capability,
                    precision=precision,
                    gpu_name=gpu_name,
                )
            ]
        ]

    def prune(
        self,
        keep: Callable[[EngineEntry], bool] | None = None,
        *,
        dry_run: bool = False,
    ) -> list[Removal]:
        """Remove what is damaged or half there, and the engines that need not be kept.

        Args:
            keep: Called with each sound engine; None keeps them all.
            dry_run: Remove nothing, only say what would go.

        Returns:
            The files that were or would be removed.

        Raises:
            OutputError: If the disk refuses, or another process holds the bundle too long.
        """
        if not self._folder().is_dir():
            return []
        with self._writing():
            removals = [
                Removal(f"{FOLDER}/{path.name}", reason, path.lstat().st_size)
                for path, reason in self._superfluous(keep)
            ]
            for removal in [] if dry_run else removals:
                (self.bundle / removal.name).unlink()
        return removals

    def _superfluous(
        self, keep: Callable[[EngineEntry], bool] | None
    ) -> Iterator[tuple[Path, str]]:
        """Yield files and reasons, a description before its plan."""
        files = sorted(self._folder().iterdir(), key=lambda path: path.name)
        plans = {path for path in files if path.suffix == ".engine"}
        gone = {path.name for path in plans}
        for description in (path for path in files if path.name.endswith(".engine.json")):
            plan = description.with_suffix("")
            reason = self._reason(description, keep)
            if reason is not None:
                yield description, reason
                if plan in plans:
                    yield plan, reason
            else:
                gone.discard(plan.name)
            plans.discard(plan)
        yield from ((plan, "no description beside it") for plan in sorted(plans))
        kept = {path.name for path in files if path.suffix == ".engine"} - gone
        for path in files:
            if path.suffix == ".cache" and path.name.rsplit(".", 2)[0] not in kept:
                yield path, "kernels of an engine that is not there"
            if path.name.startswith(".") and path.suffix == ".tmp":
                yield path, "left by a writer that was killed"

    def _reason(
        self, description: Path, keep: Callable[[EngineEntry], bool] | None
    ) -> str | None:
        try:
            entry = self._describe(description)
            if entry is None:
                return "no plan beside it"
            self.read(entry)
        except IntegrityError:
            return "damaged"
        return None if keep is None or keep(entry) else "not kept"

    def _sound(self, key: EngineKey) -> EngineEntry | None:
        with suppress(IntegrityError):
            entry = self.find(key)
            if entry is not None:
                self.read(entry)
            return entry
        return None

    def _describe(self, path: Path) -> EngineEntry | None:
        """Return what a description says, None if it or its plan is not there."""
        try:
            text = _read(path)
        except IntegrityError:
            if os.path.lexists(path):
                raise
            return None
        if not path.with_suffix("").exists():
            return None
        try:
            entry = EngineEntry.parse(text)
        except IntegrityError as error:
            raise IntegrityError(f"{path} is damaged: {error}; {_REMEDY}") from error
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error
        if path.name != f"{Path(entry.name).name}.json":
            raise IntegrityError(f"{path} describes {entry.name}; {_REMEDY}")
        return entry

    def _description(self, key: EngineKey) -> Path:
        return self._folder() / f"{Path(key.file_name()).name}.json"

    def _folder(self) -> Path:
        folder = self.bundle / FOLDER
        if folder.is_symlink():
            raise BundleError(f"{folder} is a link; engines lie inside their bundle")
        return folder

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the bundle, so that it is not replaced meanwhile."""
        target = Path(os.path.abspath(self.bundle))
        try:
            with locked(target):
                recover_directory(target)
                if not (target / "bundle.json").is_file():
                    raise BundleError(f"{self.bundle} is not a bundle: no bundle.json")
                yield
        except OutputError:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"{self.bundle / FOLDER} cannot be written: {reason}") from error


def _read(path: Path) -> bytes:
    if path.is_symlink():
        raise IntegrityError(f"{path} is a link; engines lie inside their bundle")
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror or error}") from error


def _differences(
    entry: EngineEntry, wanted: Mapping[str, str], found: Mapping[str, str]
) -> list[Difference]:
    names = [*wanted, *(name for name in found if name not in wanted)]
    pairs = [(name, wanted.get(name, "absent"), found.get(name, "absent")) for name in names]
    return [Difference(entry.name, *pair) for pair in pairs if pair[1] != pair[2]]


def _nearest_first(groups: list[list[Difference]]) -> list[Difference]:
    return [each for group in sorted(groups, key=len) for each in group]
