"""Close a resource after the last call that uses it has returned."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, get_ident

from flowsr_runtime.errors import UsageError

__all__ = ["InFlightCalls"]


class InFlightCalls:
    """The calls in flight on a resource, which is freed after the last of them."""

    def __init__(self, name: str, free: Callable[[], None]) -> None:
        """Start open.

        Args:
            name: Name of the resource in messages.
            free: Frees the resource; called once.
        """
        self._name = name
        self._free: Callable[[], None] | None = free
        self._changed = Condition()
        self._threads: list[int] = []  # one entry per call
        self._is_open = True
        self._process = os.getpid()

    @contextmanager
    def track(self) -> Iterator[None]:
        """Count a call as in flight during a `with` block.

        Raises:
            UsageError: If the resource is closed, or was opened before a fork.
        """
        self.check_process()
        with self._changed:
            if not self._is_open:
                raise UsageError(f"the {self._name} is closed")
            self._threads.append(get_ident())
        try:
            yield
        finally:
            with self._changed:
                self._threads.remove(get_ident())
                self._free_if_empty()
                self._changed.notify_all()

    def check_process(self) -> None:
        """Refuse a resource of a parent process: a fork copies no threads, so calls never end.

        Raises:
            UsageError: If this process was forked after the resource was opened.
        """
        if os.getpid() != self._process:
            raise UsageError(
                f"the {self._name} was opened before this process was forked; open one in "
                "each process"
            )

    def close(self) -> None:
        """Refuse further calls, and wait for those of other threads to return.

        Called from within a tracked call, it returns at once, and the end of that call frees
        the resource. Closing twice has no effect.
        """
        if os.getpid() != self._process:
            return  # the threads that would return are those of the parent
        own = get_ident()
        with self._changed:
            self._is_open = False
            self._changed.wait_for(lambda: all(thread == own for thread in self._threads))
            self._free_if_empty()

    def _free_if_empty(self) -> None:
        if self._is_open or self._threads or self._free is None:
            return
        free, self._free = self._free, None
        free()
