"""What one server takes: sizes, times, and how many pictures at once."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LOOPBACK", "ServeLimits", "is_loopback"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names under which a browser on this machine reaches a server that no other machine can."""


@dataclass(frozen=True)
class ServeLimits:
    """The limits of a server; whatever goes beyond one is refused with its name.

    The memory of bodies, pictures and results is bounded by them: at most `places` times
    `max_body`, plus 4 bytes a pixel of `max_pixels` and `max_output_pixels` each (16 bits twice
    that, float four times), plus what the model takes for each run.

    Attributes:
        places: Pictures that are received, computed or waiting at once.
        max_body: Bytes of a request's body.
        max_pixels: Pixels of a picture.
        max_output_pixels: Pixels of a result.
        timeout: Seconds from a whole request to its answer.
        body_timeout: Seconds in which a body has to arrive.
        hosts: Host names that a request may be addressed to, None for any. A page of another
            site cannot reach a server by a name of its own then.
    """

    places: int = 17
    max_body: int = 32 << 20
    max_pixels: int = 16_000_000
    max_output_pixels: int = 64_000_000
    timeout: float = 30.0
    body_timeout: float = 10.0
    hosts: tuple[str, ...] | None = None


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens on a host."""
    return host in LOOPBACK or host.startswith("127.")
