"""Stop a call between two tiles."""

from collections.abc import Callable
from threading import Event
from typing import TypeAlias

from flowsr_runtime.errors import CancelledError

__all__ = ["Cancel", "raise_if_cancelled"]

Cancel: TypeAlias = Event | Callable[[], bool]
"""Set, or returning True, when a call shall stop."""

_Progress = Callable[[int, int], None]


def raise_if_cancelled(cancel: Cancel | None, progress: _Progress | None) -> _Progress | None:
    """Return a progress callback that raises when a call shall stop; look once at once.

    Args:
        cancel: What tells, None if nothing does.
        progress: Called with (tiles done, tiles in all) after each tile, or None.

    Returns:
        What to call in place of `progress`.

    Raises:
        CancelledError: If the call shall stop already.
    """
    if cancel is None:
        return progress
    is_told = cancel.is_set if isinstance(cancel, Event) else cancel

    def look(done: int, tiles: int) -> None:
        if progress is not None:
            progress(done, tiles)
        if is_told():
            raise CancelledError(f"cancelled after {done} of {tiles} tiles")

    if is_told():
        raise CancelledError("cancelled before the first tile")
    return look
