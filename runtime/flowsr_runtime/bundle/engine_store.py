"""Store, find and check the engines of a bundle.

Each engine is a plain file: a plan, `<name>.engine`, as trtexec and C++ load it, or a package
of Inductor, `<name>.pt2`. The same name with `.json` holds its key, its hash and facts about
it; an engine without that file is not part of the store.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowsr_runtime.atomic import replace_file
from flowsr_runtime.bundle.directory import MANIFEST_NAME, fault_of, writing
from flowsr_runtime.bundle.engine_entry import EngineEntry
from flowsr_runtime.bundle.engine_key import (
    FLAVOURS,
    SUFFIXES,
    EngineKey,
    LoadTarget,
    Option,
    Profile,
    Range,
)
from flowsr_runtime.errors import BundleError, IntegrityError

__all__ = [
    "FLAVOURS",
    "Difference",
    "EngineEntry",
    "EngineKey",
    "EngineStore",
    "LoadTarget",
    "Option",
    "Profile",
    "Range",
    "Removal",
]

FOLDER: Final = "engines"
_REMEDY: Final = "prune the bundle's engines to remove it"


@dataclass(frozen=True)
class Difference:
    """One field in which an engine differs from the requested one.

    Attributes:
        name: Path of the engine inside the bundle.
        field: Field of the key, such as "version" or "profiles[0].input.max".
        wanted: Value in the requested key.
        found: Value in the engine's key.
    """

    name: str
    field: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.name}: {self.field} is {self.found}, wanted {self.wanted}"


@dataclass(frozen=True)
class Removal:
    """A file that `EngineStore.prune` removed, or removes without `dry_run`.

    Attributes:
        name: Path inside the bundle.
        reason: Reason in a few words.
        size: Size in bytes.
    """

    name: str
    reason: str
    size: int


class EngineStore:
    """The engines of one bundle; several processes may use a store at once."""

    def __init__(self, bundle: str | os.PathLike[str]) -> None:
        """Create the store of a bundle.

        Args:
            bundle: Bundle directory, with or without engines.
        """
        self.bundle = Path(bundle)

    def entries(self) -> list[EngineEntry]:
        """Return the engines in order of their names; `read` checks the plans.

        Raises:
            IntegrityError: If a description is damaged.
            BundleError: If a description is of a newer schema.
        """
        paths = sorted(filter(_is_description, self._folder().glob("*.json")))
        return [entry for entry in map(self._describe, paths) if entry is not None]

    def find(self, key: EngineKey) -> EngineEntry | None:
        """Return the engine with an equal key, None if there is none.

        Raises:
            IntegrityError: If its description is damaged.
            BundleError: If it is of a newer schema.
        """
        entry = self._describe(self._description(key))
        return entry if entry is not None and entry.key == key else None

    def add(self, key: EngineKey, plan: bytes, facts: Mapping[str, Any]) -> EngineEntry:
        """Write an engine, or return the intact engine with the same key.

        A qualified engine, one that has run, replaces one that has not.

        Args:
            key: Key of the engine.
            plan: Plan from the builder.
            facts: Other facts, as JSON values.

        Returns:
            The engine in the store.

        Raises:
            BundleError: If there is no bundle.
            UsageError: If `facts` cannot be written as JSON.
            OutputError: If writing fails, or another process holds the bundle too long.
        """
        entry = EngineEntry.of(key, plan, facts)
        with self._writing():
            existing = self._intact(key)
            if existing is not None:
                has_run = existing.facts.get("qualified") is not False
                if has_run or facts.get("qualified") is not True:
                    return existing
            description = self._description(key)
            description.parent.mkdir(exist_ok=True)
            # Remove the description first and write it last: it never describes another plan.
            description.unlink(missing_ok=True)
            replace_file(description.with_suffix(""), plan)
            replace_file(description, entry.render())
        return entry

    def read(self, entry: EngineEntry) -> bytes:
        """Return a plan after checking it.

        Args:
            entry: Entry from `find`, `matching` or `entries`.

        Returns:
            The bytes whose hash was checked.

        Raises:
            IntegrityError: If the plan is missing or differs from the one written.
        """
        path = self._folder() / Path(entry.name).name
        size = _size(path)  # a file of another size may not fit in memory
        data = _read(path) if size == entry.size else b""
        fault = fault_of(data, entry.size, entry.sha256, "its description", size)
        if fault is not None:
            raise IntegrityError(f"{path} is damaged: {fault}; {_REMEDY}")
        return data

    def cache_path(self, entry: EngineEntry, device: str) -> Path:
        """Return the file for kernels that a library compiles for an engine on a device.

        Args:
            entry: The engine.
            device: Identification of the device and its driver.
        """
        digest = hashlib.sha256(device.encode()).hexdigest()
        return self._folder() / f"{Path(entry.name).name}.{digest[:12]}.cache"

    def matching(self, target: LoadTarget) -> list[EngineEntry]:
        """Return the engines that a target can load, those for fewest devices first.

        The caller selects the profile that covers a shape.

        Args:
            target: Model, library and device.

        Raises:
            IntegrityError: If a description is damaged.
        """
        fitting = [entry for entry in self.entries() if not entry.key.incompatibilities(target)]
        return sorted(fitting, key=lambda entry: len(entry.key.compute_capability) or 99)

    def explain_mismatch(self, target: LoadTarget) -> list[Difference]:
        """Return why each engine that `matching` leaves out cannot be loaded, nearest first."""
        groups = [
            [
                Difference(entry.name, field, *pair)
                for field, pair in entry.key.incompatibilities(target).items()
            ]
            for entry in self.entries()
        ]
        return [item for group in sorted(groups, key=len) for item in group]

    def prune(
        self,
        keep: Callable[[EngineEntry], bool] | None = None,
        *,
        dry_run: bool = False,
    ) -> list[Removal]:
        """Remove damaged and incomplete engines, and those that `keep` rejects.

        Args:
            keep: Called with each intact engine, returns whether to keep it; None keeps all.
            dry_run: Remove nothing, only return the files.

        Returns:
            The removed files.

        Raises:
            OutputError: If writing fails, or another process holds the bundle too long.
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
        plans = {path for path in files if path.suffix in SUFFIXES}
        removed = {path.name for path in plans}
        for description in filter(_is_description, files):
            plan = description.with_suffix("")
            reason = self._reason(description, keep)
            if reason is not None:
                yield description, reason
                if plan in plans:
                    yield plan, reason
            else:
                removed.discard(plan.name)
            plans.discard(plan)
        yield from ((plan, "no description") for plan in sorted(plans))
        kept = {path.name for path in files if path.suffix in SUFFIXES} - removed
        for path in files:
            if path.suffix == ".cache" and path.name.rsplit(".", 2)[0] not in kept:
                yield path, "kernels of a missing engine"
            if path.name.startswith(".") and path.suffix == ".tmp":
                yield path, "left by a killed writer"

    def _reason(
        self, description: Path, keep: Callable[[EngineEntry], bool] | None
    ) -> str | None:
        try:
            entry = self._describe(description)
            if entry is None:
                return "no plan"
            self.read(entry)
        except IntegrityError:
            return "damaged"
        return None if keep is None or keep(entry) else "not kept"

    def _intact(self, key: EngineKey) -> EngineEntry | None:
        with suppress(IntegrityError):
            entry = self.find(key)
            if entry is not None:
                self.read(entry)
            return entry
        return None

    def _describe(self, path: Path) -> EngineEntry | None:
        """Return the entry of a description, None if it or its plan is missing."""
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
        """Lock the bundle against replacement."""
        with writing(self.bundle, self.bundle / FOLDER) as target:
            if not (target / MANIFEST_NAME).is_file():
                raise BundleError(f"{self.bundle} is not a bundle: no {MANIFEST_NAME}")
            yield


def _is_description(path: Path) -> bool:
    return path.suffix == ".json" and path.stem.endswith(SUFFIXES)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(path: Path) -> bytes:
    if path.is_symlink():
        raise IntegrityError(f"{path} is a link; engines lie inside their bundle")
    try:
        return path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror or error}") from error
