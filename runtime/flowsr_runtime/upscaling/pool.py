"""A pool of upscaling threads with a bounded queue."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event, Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.errors import BusyError, UsageError
from flowsr_runtime.geometry import Number
from flowsr_runtime.upscaling.tile_loop import Progress
from flowsr_runtime.upscaling.upscaler import Upscaler

__all__ = ["PendingPicture", "UpscalerPool"]

logger = logging.getLogger(__name__)

PixelT = TypeVar("PixelT", np.uint8, np.uint16, np.float32)


class PendingPicture(Future[NDArray[PixelT]], Generic[PixelT]):
    """A picture that waits or is being upscaled; a future of the result.

    Attributes:
        cancel_requested: Set by `cancel`.
        work: Function that computes the result; None once it has started.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cancel_requested = Event()
        self.work: Callable[[], NDArray[PixelT]] | None = None

    def cancel(self) -> bool:
        """Cancel the picture.

        A waiting picture leaves the queue. A picture that is being upscaled stops at its next
        tile, and its future then holds a `CancelledError` of this package.

        Returns:
            Whether the picture was still waiting, and is cancelled now.
        """
        self.cancel_requested.set()
        return super().cancel()


class UpscalerPool:
    """Threads that share one upscaler; pictures beyond the queue are refused at once.

    Many threads may call its methods. Leaving a `with` block finishes the accepted pictures.
    The upscaler stays open; its owner closes it after the pool.

    Attributes:
        upscaler: The shared upscaler.
        workers: Pictures to upscale at once.
        queue: Pictures that may wait.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        workers: int = 1,
        queue: int = 8,
        *,
        begin: Callable[[], None] | None = None,
    ) -> None:
        """Create a pool; threads start when they are first needed.

        Args:
            upscaler: An open upscaler. With ONNX Runtime on a CPU, open it with about
                cores / workers `threads`.
            workers: Pictures to upscale at once, at least 1.
            queue: Pictures that may wait, 0 for none.
            begin: Called at the start of each thread, for example to lower its priority. An
                error of it is logged, and the thread works on.

        Raises:
            UsageError: If a number is too small.
        """
        _check_count("workers", workers, least=1)
        _check_count("queue", queue, least=0)
        self.upscaler, self.workers, self.queue = upscaler, workers, queue
        self._threads = ThreadPoolExecutor(
            workers, thread_name_prefix="flowsr", initializer=partial(_begin, begin)
        )
        self._lock = Lock()
        self._waiting: deque[PendingPicture[Any]] = deque()
        self._running: set[PendingPicture[Any]] = set()
        self._called = 0  # tasks in the executor that will each take one waiting picture
        self._closed = False
        self._process = os.getpid()

    def __repr__(self) -> str:
        running, waiting = self.load
        return (
            f"<UpscalerPool {running} of {self.workers} workers busy, {waiting} of "
            f"{self.queue} waiting, on {self.upscaler!r}>"
        )

    def submit(
        self,
        image: NDArray[PixelT],
        scale: Number | tuple[Number, Number] | None = None,
        *,
        size: tuple[int, int] | None = None,
        resample: bool = False,
        clamp: bool = True,
        truncate: bool = False,
        seed: int = 0,
        temperature: float | None = None,
        progress: Progress | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> PendingPicture[PixelT]:
        """Upscale a picture in one of the threads.

        Args:
            image: As for `Upscaler.upscale`; do not change it before the result arrives.
            scale: As for `Upscaler.upscale`.
            size: As for `Upscaler.upscale`.
            resample: As for `Upscaler.upscale`.
            clamp: As for `Upscaler.upscale`.
            truncate: As for `Upscaler.upscale`.
            seed: As for `Upscaler.upscale`.
            temperature: As for `Upscaler.upscale`.
            progress: As for `Upscaler.upscale`; called in the thread of the pool.
            warn: As for `Upscaler.upscale`; called in the thread of the pool.

        Returns:
            A future of the result, or of the error that `Upscaler.upscale` raises.

        Raises:
            BusyError: If all workers are busy and the queue is full.
            UsageError: If the pool is closed, or was made before this process was forked.
        """
        self.upscaler.check_process()
        pending: PendingPicture[PixelT] = PendingPicture()
        pending.work = partial(
            self.upscaler.upscale,
            image,
            scale,
            size=size,
            resample=resample,
            clamp=clamp,
            truncate=truncate,
            seed=seed,
            temperature=temperature,
            progress=progress,
            warn=warn,
            cancel=pending.cancel_requested,
        )
        pending.add_done_callback(self._leave)
        with self._lock:
            self._admit(pending)
        return pending

    @property
    def load(self) -> tuple[int, int]:
        """Number of pictures being upscaled, and of waiting pictures."""
        with self._lock:
            return len(self._running), len(self._waiting)

    def close(self, *, wait: bool = True) -> None:
        """Refuse further pictures; closing twice has no effect.

        Args:
            wait: Finish all accepted pictures, and return when the threads have ended.
                Otherwise cancel the waiting pictures, stop the others at their next tile, and
                return at once.
        """
        if os.getpid() != self._process:
            return  # its threads are those of the parent
        with self._lock:
            self._closed = True
            cancelled = [] if wait else [*self._waiting, *self._running]
        for pending in cancelled:
            pending.cancel()
        self._threads.shutdown(wait=wait)

    def __enter__(self) -> UpscalerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _admit(self, pending: PendingPicture[Any]) -> None:
        """Put a picture into the queue; the caller holds the lock."""
        if self._closed:
            raise UsageError("the pool is closed")
        if len(self._running) + len(self._waiting) >= self.workers + self.queue:
            raise BusyError(
                f"all {self.workers} workers are busy and {self.queue} pictures wait; try "
                "again later"
            )
        self._waiting.append(pending)
        if self._called < len(self._waiting):
            try:
                self._threads.submit(self._work)
            except RuntimeError:  # the system makes no more threads
                self._waiting.remove(pending)
                raise
            self._called += 1

    def _work(self) -> None:
        """Upscale the picture that has waited longest, if any."""
        with self._lock:
            self._called -= 1
            if not self._waiting:
                return
            pending = self._waiting.popleft()
            self._running.add(pending)
        if pending.set_running_or_notify_cancel():
            self._upscale(pending)

    def _upscale(self, pending: PendingPicture[Any]) -> None:
        work, pending.work = pending.work, None
        assert work is not None
        try:
            result = work()
        except BaseException as error:
            self._leave(pending)  # free the place before the caller sees the result
            pending.set_exception(error)
            del pending  # the error refers to this frame: avoid a reference cycle
        else:
            self._leave(pending)
            pending.set_result(result)

    def _leave(self, done: Future[NDArray[Any]]) -> None:
        """Release the place of a picture that is done or cancelled."""
        assert isinstance(done, PendingPicture)
        with self._lock:
            self._running.discard(done)
            if done in self._waiting:
                self._waiting.remove(done)
        done.work = None


def _begin(begin: Callable[[], None] | None) -> None:
    """Call a function; an error of it would break the executor and lose its places."""
    try:
        if begin is not None:
            begin()
    except Exception:
        logger.exception("the function at the start of a thread failed")


def _check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
