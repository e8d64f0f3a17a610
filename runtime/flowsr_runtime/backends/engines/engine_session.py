"""What sessions on the engines of a bundle share: the choice, loading when needed, closing."""

import threading
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from flowsr_runtime.backends.engines.selection import EngineSelection
from flowsr_runtime.bundle.engine_store import EngineEntry
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import UsageError

__all__ = ["EngineSession", "LoadedEngine"]


class LoadedEngine(Protocol):
    """An engine on its device."""

    @property
    def counters(self) -> GraphCounters:
        """Counters of CUDA graphs."""

    def close(self) -> None:
        """Free the engine."""


E = TypeVar("E", bound=LoadedEngine)


class EngineSession(ABC, Generic[E]):
    """Engines of a bundle for one device, each loaded when a run needs it."""

    def __init__(self, selection: EngineSelection) -> None:
        """Load the first engine, so that a failure is seen at once."""
        self._selection = selection
        self._loaded: dict[str, E] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._load(selection.entries[0])

    @abstractmethod
    def _open(self, entry: EngineEntry, content: bytes) -> E:
        """Load an engine whose content was checked."""

    @property
    def limits(self) -> ProfileLimits:
        """The sizes that the engines for the device take, loaded or not."""
        return self._selection.limits

    @property
    def engine_hashes(self) -> list[str]:
        """SHA-256 of the engines for the device, loaded or not."""
        return self._selection.hashes

    @property
    def engines(self) -> list[str]:
        """Loaded engines, as paths inside the bundle."""
        with self._lock:
            return list(self._loaded)

    @property
    def graph_counters(self) -> GraphCounters:
        """Counters of CUDA graphs."""
        with self._lock:
            return sum((engine.counters for engine in self._loaded.values()), GraphCounters())

    def close(self) -> None:
        """Free the engines; the session cannot run after that."""
        with self._lock:
            loaded, self._loaded, self._closed = self._loaded, {}, True
        for engine in loaded.values():
            engine.close()

    def _label(self, place: str) -> str:
        count = len(self._selection.entries)
        state = ", closed" * self._closed
        return f"<{type(self).__name__} {place}, {count} engine{'s' * (count > 1)}{state}>"

    def _load(self, entry: EngineEntry) -> E:
        with self._lock:
            if self._closed:
                raise UsageError("the session is closed")
            if entry.name not in self._loaded:
                content = self._selection.store.read(entry)  # checked before it is loaded
                self._loaded[entry.name] = self._open(entry, content)
            return self._loaded[entry.name]
