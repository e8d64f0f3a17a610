"""The CUDA graphs of one worker: a bounded number, the least recently used goes first."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Captured", "GraphCache", "GraphCounters"]

_SEEN_PER_GRAPH: Final = 8
"""Keys that are remembered until they come again, for each graph that may be kept."""


@dataclass
class Captured:
    """A graph with what it needs to stay valid.

    Attributes:
        graph: The work, a `device.Graph`.
        context: The execution context that it was captured from; nothing else may use it.
        shapes: Shapes of the outputs by name.
    """

    graph: Any
    context: Any
    shapes: dict[str, tuple[int, ...]]

    def close(self) -> None:
        """Destroy the graph, then the context."""
        self.graph.close()
        self.context = None


@dataclass
class GraphCounters:
    """How often a graph could be used.

    Attributes:
        hits: Runs that were one launch of a graph.
        captures: Graphs that were captured.
        evictions: Graphs that were destroyed to make room, or because memory moved.
        plain: Runs without a graph.
    """

    hits: int = 0
    captures: int = 0
    evictions: int = 0
    plain: int = 0

    def __add__(self, other: "GraphCounters") -> "GraphCounters":
        return GraphCounters(
            self.hits + other.hits,
            self.captures + other.captures,
            self.evictions + other.evictions,
            self.plain + other.plain,
        )


class GraphCache:
    """Graphs by what they were captured for.

    A graph is captured when its key comes for the second time: most tiles of a single picture
    come once, those of a film again and again.
    """

    def __init__(self, limit: int) -> None:
        """Make an empty cache.

        Args:
            limit: Most graphs that are kept, 0 for none.
        """
        self.limit = limit
        self.counters = GraphCounters()
        self._kept: OrderedDict[Hashable, Captured] = OrderedDict()
        self._seen: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> Captured | None:
        """Return the graph of a key, None if there is none."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self.counters.hits += 1
        return found

    def is_due(self, key: Hashable) -> bool:
        """Return whether a key came before, so that a graph of it is worth its time."""
        if self.limit == 0:
            return False
        due = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        while len(self._seen) > _SEEN_PER_GRAPH * self.limit:
            self._seen.popitem(last=False)
        return due

    def put(self, key: Hashable, captured: Captured) -> None:
        """Keep a graph; the one that was not used for longest makes room."""
        self.counters.captures += 1
        self._kept[key] = captured
        while len(self._kept) > self.limit:
            self._kept.popitem(last=False)[1].close()
            self.counters.evictions += 1

    def clear(self) -> None:
        """Destroy every graph: memory that they use moves or goes."""
        self.counters.evictions += len(self._kept)
        for captured in self._kept.values():
            captured.close()
        self._kept.clear()
