"""A pool of threads that enlarge pictures, with a bounded queue in front."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event, Lock
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.errors import BusyError, UsageError
from flowsr_runtime.geometry import Number
from flowsr_runtime.upscaling.tile_loop import Progress
from flowsr_runtime.upscaling.upscaler import Upscaler

__all__ = ["PendingPicture", "UpscalerPool"]

PixelT = TypeVar("PixelT", np.uint8, np.uint16, np.float32)


class PendingPicture(Future[NDArray[PixelT]], Generic[PixelT]):
    """A picture that waits or is being enlarged; a future of the result.

    Attributes:
        told: Set when it was given up.
        work: What makes the result; None when that has begun.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cancel_requested = Event()
        self.work: Callable[[], NDArray[PixelT]] | None = None

    def cancel(self) -> bool:
        """Give the picture up.

        One that waits leaves the queue. One that is being enlarged stops at its next tile and
        then has a `CancelledError` of this package.

        Returns:
            Whether it is cancelled by now, as it was not being enlarged yet.
        """
        self.cancel_requested.set()
        return super().cancel()


class UpscalerPool:
    """Threads that share one upscaler; more pictures than have a place are refused at once.

    Its methods may be called from many threads. Leaving a `with` block finishes what was
    accepted. The upscaler stays open: who opened it closes it, after the pool.

    Attributes:
        upscaler: What enlarges.
        workers: Pictures that are enlarged at once.
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
        """Start with no thread; each begins when it is first needed.

        Args:
            upscaler: An open upscaler. With ONNX Runtime on a CPU, give it about
                cores / workers `threads`.
            workers: Pictures to enlarge at once, at least 1.
            queue: Pictures that may wait, 0 for none.
            begin: Called first of all in each thread, as to lower its priority.

        Raises:
            UsageError: If a number is not one of these.
        """
        _check_count("workers", workers, least=1)
        _check_count("queue", queue, least=0)
        self.upscaler, self.workers, self.queue = upscaler, workers, queue
        self._threads = ThreadPoolExecutor(
            workers, thread_name_prefix="flowsr", initializer=begin
        )
        self._lock = Lock()
        self._waiting: deque[PendingPicture[Any]] = deque()
        self._running: set[PendingPicture[Any]] = set()
        self._called = 0  # threads that were asked to come and take one that waits
        self._closed = False

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
        """Enlarge a picture in one of the threads; every argument is as for `upscale`.

        Args:
            image: As for `Upscaler.upscale`; do not change it before the result is there.
            scale: As for `Upscaler.upscale`.
            size: As for `Upscaler.upscale`.
            resample: As for `Upscaler.upscale`.
            clamp: As for `Upscaler.upscale`.
            truncate: As for `Upscaler.upscale`.
            seed: As for `Upscaler.upscale`.
            temperature: As for `Upscaler.upscale`.
            progress: As for `Upscaler.upscale`; called in the thread that enlarges.
            warn: As for `Upscaler.upscale`; called in the thread that enlarges.

        Returns:
            A future of the result, or of what `Upscaler.upscale` raises.

        Raises:
            BusyError: If all workers are busy and the queue is full.
            UsageError: If the pool is closed.
        """
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
        """Pictures that are being enlarged, and that wait."""
        with self._lock:
            return len(self._running), len(self._waiting)

    def close(self, *, wait: bool = True) -> None:
        """Take no more pictures; closing twice does no harm.

        Args:
            wait: Finish every picture that was accepted, and return when the threads have
                ended. Otherwise cancel those that wait, let the others stop at their next
                tile, and return at once.
        """
        with self._lock:
            self._closed = True
            given_up = [] if wait else [*self._waiting, *self._running]
        for pending in given_up:
            pending.cancel()
        self._threads.shutdown(wait=wait)

    def __enter__(self) -> UpscalerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _admit(self, pending: PendingPicture[Any]) -> None:
        """Put a picture into the queue; called under the lock."""
        if self._closed:
            raise UsageError("the pool is closed")
        if len(self._running) + len(self._waiting) >= self.workers + self.queue:
            raise BusyError(
                f"all {self.workers} workers are busy and {self.queue} pictures wait; try "
                "again later"
            )
        self._waiting.append(pending)
        if self._called < len(self._waiting):
            self._called += 1
            self._threads.submit(self._work)

    def _work(self) -> None:
        """Enlarge the picture that waits longest, if one still does."""
        with self._lock:
            self._called -= 1
            if not self._waiting:
                return
            pending = self._waiting.popleft()
            self._running.add(pending)
        if pending.set_running_or_notify_cancel():
            self._enlarge(pending)

    def _enlarge(self, pending: PendingPicture[Any]) -> None:
        work, pending.work = pending.work, None
        assert work is not None
        try:
            result = work()
        except BaseException as error:
            self._leave(pending)  # before anyone who waits for it may submit another
            pending.set_exception(error)
            del pending  # the error holds this frame, which would hold the error
        else:
            self._leave(pending)
            pending.set_result(result)

    def _leave(self, done: Future[NDArray[Any]]) -> None:
        """Give the place of a picture free that is done or was cancelled."""
        assert isinstance(done, PendingPicture)
        with self._lock:
            self._running.discard(done)
            if done in self._waiting:
                self._waiting.remove(done)
        done.work = None


def _check_count(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
