"""Size-fixed graphs of a bundle beside its graph of any size: chosen by a run's inputs."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from flowsr_runtime.bundle.manifest import SizeFixedGraph
from flowsr_runtime.geometry import Window

__all__ = ["SizeFixedSessions", "matching_graph"]


class Closable(Protocol):
    """A loaded model."""

    def close(self) -> None:
        """Free the model."""


SessionT = TypeVar("SessionT", bound=Closable)


def matching_graph(
    graphs: Sequence[SizeFixedGraph], feeds: Mapping[str, Any]
) -> SizeFixedGraph | None:
    """Return the size-fixed graph that computes a run, None if none does.

    Args:
        graphs: Size-fixed graphs of one precision.
        feeds: Inputs of the graph of any size. Its `geometry`, if it has one, must be of a
            whole image: a tile samples where the whole image does, which a size-fixed graph
            does not know.
    """
    batch, _, *lr = feeds["input"].shape
    for graph in graphs:
        if (graph.batch, *graph.lr) != (batch, *lr):
            continue
        whole = Window.whole(graph.lr, graph.size).geometry()
        if "geometry" not in feeds or np.array_equal(np.asarray(feeds["geometry"]), whole):
            return graph
    return None


class SizeFixedSessions(Generic[SessionT]):
    """Sessions of size-fixed graphs, each loaded when its size first runs."""

    def __init__(
        self, graphs: Sequence[SizeFixedGraph], load: Callable[[str], SessionT]
    ) -> None:
        """Remember the graphs.

        Args:
            graphs: Size-fixed graphs of one precision.
            load: Loads one by the name of its file.
        """
        self.graphs, self._load = tuple(graphs), load
        self._loaded: dict[str, SessionT] = {}
        self._lock = threading.Lock()

    def session_for(self, feeds: Mapping[str, Any]) -> tuple[SessionT, dict[str, Any]] | None:
        """Return the session that computes a run and its inputs, None if none does."""
        graph = matching_graph(self.graphs, feeds)
        if graph is None:
            return None
        with self._lock:
            session = self._loaded.get(graph.file)
            if session is None:
                session = self._loaded[graph.file] = self._load(graph.file)
        return session, {name: value for name, value in feeds.items() if name != "geometry"}

    def loaded(self) -> list[SessionT]:
        """Return the sessions that have been loaded."""
        with self._lock:
            return list(self._loaded.values())

    def close(self) -> None:
        """Free the loaded models."""
        with self._lock:
            for session in self._loaded.values():
                session.close()
            self._loaded.clear()
