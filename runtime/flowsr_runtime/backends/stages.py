"""A bundle's graph in two stages: features once for an image, a query for each scale."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.bundle.manifest import StageGraphs

__all__ = ["Features", "StageSessions", "is_whole"]


@dataclass(frozen=True)
class Features:
    """What the first stage computed of an image.

    Attributes:
        values: Arrays of the library by name; they may lie on a GPU.
        nbytes: Bytes that they take.
    """

    values: Mapping[str, Any]
    nbytes: int


class StageSession(Protocol):
    """A loaded stage graph."""

    def run(self, feeds: Mapping[str, Any]) -> NDArray[Any]:
        """Run a graph with the one output `output`."""

    def features(self, feeds: Mapping[str, NDArray[Any]]) -> Features:
        """Run a graph and leave its outputs on the device."""

    def close(self) -> None:
        """Free the model."""


SessionT = TypeVar("SessionT", bound=StageSession)


class StageSessions(Generic[SessionT]):
    """The sessions of both stages, loaded when they first run."""

    def __init__(self, graphs: StageGraphs, load: Callable[[str], SessionT]) -> None:
        """Remember the graphs.

        Args:
            graphs: The graphs.
            load: Loads one by the name of its file.
        """
        self._graphs, self._load = graphs, load
        self._loaded: tuple[SessionT, SessionT] | None = None
        self._lock = threading.Lock()

    def features(self, image: NDArray[Any]) -> Features:
        """Compute the features of an image or a tile (1, 3, h, w)."""
        return self._sessions()[0].features({"input": image})

    def query(self, features: Features, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Upscale an image whose features are known.

        Args:
            features: Features of `input`.
            feeds: Inputs of the graph of any size.

        Returns:
            As `Session.run`.
        """
        return self._sessions()[1].run({**feeds, **features.values})

    def close(self) -> None:
        """Free the loaded models."""
        with self._lock:
            for session in self._loaded or ():
                session.close()
            self._loaded = None

    def _sessions(self) -> tuple[SessionT, SessionT]:
        with self._lock:
            if self._loaded is None:
                names = self._graphs.features, self._graphs.query
                self._loaded = self._load(names[0]), self._load(names[1])
            return self._loaded


def is_whole(feeds: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether a run is of a whole image, and not of a tile.

    Args:
        feeds: Inputs of a graph with the input `geometry`.
    """
    height, width = feeds["input"].shape[2:]
    out = feeds["geometry"][8:]
    whole = [height, width, *out, 0, 0, 0, 0, *out]
    return bool(np.array_equal(feeds["geometry"], whole))
