"""Limits of a server, and the slots for images that it processes at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowsr_export.serve.responses import HttpError

__all__ = ["LOOPBACK", "AdmissionSlots", "ServeLimits", "is_loopback"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Host names of a server that only this machine can reach."""

MAX_RETRY_SECONDS = 60
"""Maximum Retry-After of a refused request."""

SMOOTHING = 0.8
"""Smoothing factor of the moving average of seconds per image."""


@dataclass(frozen=True)
class ServeLimits:
    """Limits of a server; a refusal names the exceeded limit.

    They bound the memory of bodies, images and results: `places` times the sum of `max_body`
    and of 4 bytes per pixel of `max_pixels` and `max_output_pixels` (8 bytes at 16 bits, 16
    in float), plus the memory of each run of the model.

    Attributes:
        places: Images that are received, processed or waiting at once.
        max_body: Bytes of a request body.
        max_pixels: Pixels of an input image.
        max_output_pixels: Pixels of a result.
        max_output_side: Pixels along one side of a result; planning takes time for each.
        timeout: Seconds from a complete request to its response.
        body_timeout: Seconds for receiving a body.
        hosts: Host names that requests may address, None for any. The check keeps pages of
            other sites from reaching the server under a name of their own.
    """

    places: int = 17
    max_body: int = 32 << 20
    max_pixels: int = 16_000_000
    max_output_pixels: int = 64_000_000
    max_output_side: int = 65_536
    timeout: float = 30.0
    body_timeout: float = 10.0
    hosts: tuple[str, ...] | None = None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on a host."""
    return host in LOOPBACK or host.startswith("127.")


class AdmissionSlots:
    """Counter of the images that are received, processed or waiting.

    Attributes:
        capacity: Maximum number of images.
        used: Number of slots in use.
    """

    def __init__(self, capacity: int) -> None:
        """Create free slots."""
        self.capacity = capacity
        self.used = 0
        self._seconds = 0.0

    def acquire(self) -> None:
        """Use a slot.

        Raises:
            HttpError: 429 if all slots are in use; its Retry-After is the average time of
                recent images, queueing included.
        """
        if self.used >= self.capacity:
            wait = math.ceil(self._seconds)
            headers = {"Retry-After": str(min(max(wait, 1), MAX_RETRY_SECONDS))}
            message = f"all {self.capacity} places are taken; try again later"
            raise HttpError(429, message, headers)
        self.used += 1

    def release(self) -> None:
        """Free a slot."""
        self.used -= 1

    def record(self, seconds: float) -> None:
        """Record the time of one image, from the queue to its result."""
        earlier = self._seconds or seconds
        self._seconds = SMOOTHING * earlier + (1 - SMOOTHING) * seconds
