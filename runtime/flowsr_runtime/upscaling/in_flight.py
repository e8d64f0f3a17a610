"""Who uses something that can be closed: it is freed when the last has left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, get_ident

from flowsr_runtime.errors import UsageError

__all__ = ["InFlightCalls"]


class InFlightCalls:
    """Lets calls in until it is closed, and frees what they use after the last of them."""

    def __init__(self, name: str, free: Callable[[], None]) -> None:
        """Begin open.

        Args:
            name: What is closed, for messages.
            free: Called once.
        """
        self._name = name
        self._free: Callable[[], None] | None = free
        self._changed = Condition()
        self._inside: list[int] = []  # the thread of each call
        self._is_open = True

    @contextmanager
    def track(self) -> Iterator[None]:
        """Be inside for the length of a `with` block.

        Raises:
            UsageError: If it is closed.
        """
        with self._changed:
            if not self._is_open:
                raise UsageError(f"the {self._name} is closed")
            self._inside.append(get_ident())
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(get_ident())
                self._free_if_empty()
                self._changed.notify_all()

    def close(self) -> None:
        """Let no more calls in, and wait until those of other threads have left.

        From inside a call it returns at once; that call's end frees. Closing twice does no
        harm.
        """
        own = get_ident()
        with self._changed:
            self._is_open = False
            self._changed.wait_for(lambda: all(thread == own for thread in self._inside))
            self._free_if_empty()

    def _free_if_empty(self) -> None:
        if self._is_open or self._inside or self._free is None:
            return
        free, self._free = self._free, None
        free()
