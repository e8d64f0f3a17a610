"""The places of a server: how many pictures it has at once, and when one is likely free."""

from __future__ import annotations

import math

from flowsr_export.serve_refusal import RefusalError

__all__ = ["Places"]

MOST_WAIT = 60
"""Seconds that a refused client is asked to wait at most."""

MEMORY = 0.8
"""Share of the earlier mean in the mean time of a picture."""


class Places:
    """Counts the pictures that are received, computed or waiting; one over is refused."""

    def __init__(self, most: int, workers: int) -> None:
        """Start empty.

        Args:
            most: Pictures at once.
            workers: How many of them are computed at once.
        """
        self.most = most
        self._workers = workers
        self._taken = 0
        self._seconds = 0.0

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self._taken

    def take(self) -> None:
        """Take a place.

        Raises:
            RefusalError: 429 if none is left; its Retry-After is when the pictures that are
                there are likely done.
        """
        if self._taken >= self.most:
            wait = math.ceil(self._seconds * self._taken / self._workers)
            raise RefusalError(
                429,
                f"all {self.most} places are taken; try again later",
                {"Retry-After": str(min(max(wait, 1), MOST_WAIT))},
            )
        self._taken += 1

    def give(self) -> None:
        """Give a place back."""
        self._taken -= 1

    def note(self, seconds: float) -> None:
        """Learn how long a picture took a worker."""
        earlier = self._seconds or seconds
        self._seconds = MEMORY * earlier + (1 - MEMORY) * seconds
