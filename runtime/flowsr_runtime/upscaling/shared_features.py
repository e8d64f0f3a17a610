"""Keep the features of recent images, so that further scales cost the query stage alone."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.backends.stages import Features
from flowsr_runtime.bundle.directory import Bundle

__all__ = ["FeatureCache", "SharingSession", "why_not_shared"]


class FeatureCache:
    """Features of images by the hash of their pixels; many threads may use it at once.

    Attributes:
        most: Bytes of features that are kept.
        hits: Number of times that kept features were used.
        misses: Number of times that features were computed.
    """

    def __init__(self, most: int) -> None:
        """Create an empty cache.

        Args:
            most: Bytes of features to keep; the least recently used go first, and those of
                the latest image stay in any case.
        """
        self.most, self.hits, self.misses = most, 0, 0
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes of the features that are kept."""
        with self._lock:
            return sum(features.nbytes for features in self._kept.values())

    def features_of(
        self, image: NDArray[Any], compute: Callable[[NDArray[Any]], Features]
    ) -> Features:
        """Return the features of an image.

        Args:
            image: Images of a run, (1, 3, h, w).
            compute: Computes features that are not kept.
        """
        key = _digest(image)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                self.hits += 1
                return kept
            self.misses += 1
        features = compute(image)
        with self._lock:
            self._kept[key] = features
            self._shrink()
        return features

    def clear(self) -> None:
        """Forget all features."""
        with self._lock:
            self._kept.clear()

    def _shrink(self) -> None:
        total = sum(features.nbytes for features in self._kept.values())
        while total > self.most and len(self._kept) > 1:
            total -= self._kept.popitem(last=False)[1].nbytes


class SharingSession:
    """A session that takes the features of whole images, or of tiles too, from a cache."""

    def __init__(self, session: Session, cache: FeatureCache, *, tiles: bool = False) -> None:
        """Wrap a session that has stage graphs; see `why_not_shared`.

        Args:
            session: The session.
            cache: The cache.
            tiles: Whether the features of tiles are kept; the caller forgets them.
        """
        self._tiles = tiles
        self._session: Any = session
        self._cache = cache
        self.limits = session.limits
        self.backend, self.provider, self.device = (
            session.backend,
            session.provider,
            session.device,
        )

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model; without `tiles` a tile runs as without a cache. See `Session.run`."""
        stages = self._session.stages if self._tiles else self._session.stages_for(feeds)
        result: NDArray[Any]
        if stages is None:
            result = self._session.run(feeds)
            return result
        try:
            features = self._cache.features_of(feeds["input"], stages.features)
            result = stages.query(features, feeds)
        except MemoryError:
            self._cache.clear()  # smaller tiles have other features
            raise
        return result

    def close(self) -> None:
        """Close the wrapped session."""
        self._session.close()


def why_not_shared(bundle: Bundle, session: Session, max_memory: int | None) -> str | None:
    """Say in one line why several scales of an image do not share its features.

    Args:
        bundle: The bundle.
        session: Session of its model.
        max_memory: Bound of the process; it would not hold with two more models.

    Returns:
        The reason, None if they do.
    """
    if max_memory is not None:
        return "scales run one by one within max_memory, which features would exceed"
    if getattr(session, "has_stages", False):
        return None
    if bundle.manifest.stages and not hasattr(session, "has_stages"):
        return f"scales run one by one: {session.backend} takes no stage graphs"
    return (
        f"scales run one by one: {bundle.path} has no stage graphs for this precision; "
        "export-onnx --stages adds them"
    )


def _digest(image: NDArray[Any]) -> bytes:
    """Return a digest of the shape, type and content of an array."""
    content = np.ascontiguousarray(image)
    digest = hashlib.blake2b(f"{content.shape} {content.dtype}".encode(), digest_size=32)
    digest.update(content.data)
    return digest.digest()
