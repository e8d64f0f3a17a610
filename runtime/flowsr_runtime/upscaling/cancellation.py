"""Cancel a call between two tiles."""

from collections.abc import Callable
from threading import Event
from typing import TypeAlias

from flowsr_runtime.errors import CancelledError

__all__ = ["Cancel", "raise_if_cancelled"]

Cancel: TypeAlias = Event | Callable[[], bool]
"""An event that is set, or a function that returns True, to cancel a call."""

_Progress = Callable[[int, int], None]


def raise_if_cancelled(cancel: Cancel | None, progress: _Progress | None) -> _Progress | None:
    """Raise if a call is cancelled, and return a progress callback that does the same.

    Args:
        cancel: Event or function to check, None for a call that cannot be cancelled.
        progress: Called with (tiles done, tiles in all) after each tile, or None.

    Returns:
        Callback that replaces `progress`.

    Raises:
        CancelledError: If the call is cancelled already.
    """
    if cancel is None:
        return progress
    is_cancelled = cancel.is_set if isinstance(cancel, Event) else cancel

    def check(done: int, tiles: int) -> None:
        if progress is not None:
            progress(done, tiles)
        if is_cancelled():
            raise CancelledError(f"cancelled after {done} of {tiles} tiles")

    if is_cancelled():
        raise CancelledError("cancelled before the first tile")
    return check
