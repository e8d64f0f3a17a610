"""The places of a server: how many pictures it has at once, and when one is likely free."""

from __future__ import annotations

import math

from flowsr_export.serve.responses import HttpError

__all__ = ["AdmissionSlots"]

MOST_WAIT = 60
"""Seconds that a refused client is asked to wait at most."""

MEMORY = 0.8
"""Share of the earlier pictures in the mean time of one."""


class AdmissionSlots:
    """Counts the pictures that are received, computed or waiting; one over is refused."""

    def __init__(self, most: int) -> None:
        """Start empty, with so many places."""
        self.most = most
        self._taken = 0
        self._seconds = 0.0

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self._taken

    def take(self) -> None:
        """Take a place.

        Raises:
            HttpError: 429 if none is left; its Retry-After is as long as the last pictures
                took, their time in the queue included.
        """
        if self._taken >= self.most:
            wait = math.ceil(self._seconds)
            raise HttpError(
                429,
                f"all {self.most} places are taken; try again later",
                {"Retry-After": str(min(max(wait, 1), MOST_WAIT))},
            )
        self._taken += 1

    def give(self) -> None:
        """Give a place back."""
        self._taken -= 1

    def note(self, seconds: float) -> None:
        """Learn how long a picture took, from the queue to its result."""
        earlier = self._seconds or seconds
        self._seconds = MEMORY * earlier + (1 - MEMORY) * seconds
