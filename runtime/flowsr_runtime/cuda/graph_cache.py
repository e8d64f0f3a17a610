"""A bounded cache of CUDA graphs that evicts the least recently used."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import astuple, dataclass
from operator import add
from typing import Any, Final

__all__ = ["Captured", "GraphCache", "GraphCounters"]

_KEYS_PER_GRAPH: Final = 8
"""Number of remembered keys without a graph, per cached graph."""


@dataclass
class Captured:
    """A graph and its execution context.

    Attributes:
        graph: A `device.Graph`.
        context: The execution context of the capture; it must not be used otherwise.
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
    """Counters of runs with and without graphs.

    Attributes:
        hits: Runs with a graph.
        captures: Captured graphs.
        evictions: Graphs destroyed because of the limit, or because memory moved.
        plain: Runs without a graph.
    """

    hits: int = 0
    captures: int = 0
    evictions: int = 0
    plain: int = 0

    def __add__(self, other: "GraphCounters") -> "GraphCounters":
        return GraphCounters(*map(add, astuple(self), astuple(other)))


class GraphCache:
    """Graphs by key.

    A graph is captured when its key occurs for the second time: most tiles of a single image
    occur once, those of a film many times.
    """

    def __init__(self, limit: int) -> None:
        """Create an empty cache.

        Args:
            limit: Largest number of graphs, 0 for none.
        """
        self.limit = limit
        self.counters = GraphCounters()
        self._graphs: OrderedDict[Hashable, Captured] = OrderedDict()
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, key: Hashable) -> Captured | None:
        """Return the graph of a key, None if there is none."""
        captured = self._graphs.get(key)
        if captured is not None:
            self._graphs.move_to_end(key)
            self.counters.hits += 1
        return captured

    def is_due(self, key: Hashable) -> bool:
        """Return whether a key occurs again, which makes a graph worth capturing."""
        if self.limit == 0:
            return False
        repeated = key in self._keys
        self._keys[key] = None
        self._keys.move_to_end(key)
        while len(self._keys) > _KEYS_PER_GRAPH * self.limit:
            self._keys.popitem(last=False)
        return repeated

    def put(self, key: Hashable, captured: Captured) -> None:
        """Add a graph, and evict the least recently used one beyond the limit."""
        self.counters.captures += 1
        self._graphs[key] = captured
        while len(self._graphs) > self.limit:
            self._graphs.popitem(last=False)[1].close()
            self.counters.evictions += 1

    def clear(self) -> None:
        """Destroy all graphs, before memory that they use moves or is freed."""
        self.counters.evictions += len(self._graphs)
        for captured in self._graphs.values():
            captured.close()
        self._graphs.clear()
