"""Pictures on their way through reading, model and writing, at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Event, Lock

from flowsr_export.upscale.jobs import Done, Failure, Job, Report, Request, failure_of
from flowsr_runtime import Upscaler, check_output, read_picture, write_picture
from flowsr_runtime.errors import (
    CancelledError,
    NonFiniteError,
    OutputError,
    PictureError,
    ScaleError,
    ShapeError,
)
from flowsr_runtime.tiling.memory import peak_bytes

__all__ = ["ONE_PICTURE", "STEPS", "enlarge", "enlarge_all"]

# What one picture can be the reason of; every other error would meet all of them.
ONE_PICTURE = (
    MemoryError,
    NonFiniteError,
    OutputError,
    PictureError,
    ScaleError,
    ShapeError,
)

STEPS = 1000
"""Steps of a progress bar for one picture, whatever its number of tiles."""

AROUND = 2  # pictures beside those that are computed: one that is read, one that is written

Tell = Callable[[int, str], None]


def enlarge_all(
    jobs: Sequence[Job],
    upscalers: Sequence[Upscaler],
    request: Request,
    tell: Tell,
    *,
    overlap: bool = True,
) -> Report:
    """Enlarge every picture, going on past those that cannot be.

    While one picture is computed another is read and a third is written; at most two pictures
    more than there are upscalers are in memory. An interruption ends it after the tiles that
    are being computed and the file that is being written.

    Args:
        jobs: What to enlarge, from `plan`.
        upscalers: The open model, once for each device; each picture goes to one that is free.
        request: What is asked for every picture.
        tell: Called with (steps, file name) after each tile, by one thread at a time; `STEPS`
            make a picture.
        overlap: Hold more than one picture; without it they follow each other.

    Returns:
        What was done and what was not, in the order of the jobs.

    Raises:
        FlowsrError: What no single picture is the reason of, such as a damaged bundle.
    """
    began = time.perf_counter()
    line = _Line(upscalers, request, tell)
    threads = len(upscalers) + AROUND if overlap else 1
    with ThreadPoolExecutor(threads, thread_name_prefix="flowsr-picture") as pool:
        futures = [pool.submit(line.run, job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            line.stop()
            pool.shutdown(cancel_futures=True)
    if line.reason is not None:
        raise line.reason
    outcomes = [future.result() for future in futures]
    done = tuple(outcome for outcome in outcomes if isinstance(outcome, Done))
    failures = tuple(outcome for outcome in outcomes if isinstance(outcome, Failure))
    seconds = time.perf_counter() - began
    return Report(done, failures, seconds=seconds, peak_bytes=peak_bytes())


def enlarge(job: Job, upscaler: Upscaler, request: Request) -> Done:
    """Enlarge one picture from file to file.

    Args:
        job: What to enlarge.
        upscaler: The open model.
        request: What is asked for.

    Returns:
        What was done.

    Raises:
        FlowsrError: Whatever the picture or the request is the reason of.
    """
    line = _Line([upscaler], request, lambda steps, note: None)
    return line.enlarge(job, lambda done, tiles: None)


class _Line:
    """One reader, one writer and some upscalers that pictures pass."""

    def __init__(self, upscalers: Sequence[Upscaler], request: Request, tell: Tell) -> None:
        self.reason: BaseException | None = None
        self._free: SimpleQueue[Upscaler] = SimpleQueue()
        for upscaler in upscalers:
            self._free.put(upscaler)
        self._any = upscalers[0]
        self._request = request
        self._tell = tell
        self._telling, self._reading, self._writing = Lock(), Lock(), Lock()
        self._stopped = Event()

    def stop(self) -> None:
        """Begin nothing more: no picture, no tile, no file."""
        self._stopped.set()

    def run(self, job: Job) -> Done | Failure:
        """Take one picture all the way."""
        bar = _PictureBar(job.source.name, self._tell_safely)
        try:
            return self.enlarge(job, bar.after_tile)
        except ONE_PICTURE as error:
            return failure_of(job, error)
        except CancelledError:  # the batch ends, by another's reason
            raise
        except BaseException as error:
            self.reason = self.reason or error
            self.stop()
            raise
        finally:
            bar.reach(STEPS)

    def enlarge(self, job: Job, after_tile: Callable[[int, int], None]) -> Done:
        request = self._request
        with self._reading:
            self._check()
            check_output(job.target, request.force)
            picture = request.prepared(read_picture(job.source))
        source = (picture.rgb.shape[0], picture.rgb.shape[1])
        target = self._any.target(
            source, request.scale, size=request.size, resample=request.resample
        )
        check_output(job.target, request.force, like=picture, size=target, depth=request.depth)
        warnings: list[str] = []
        upscaler = self._free.get()
        try:
            self._check()
            began = time.perf_counter()
            large = upscaler.upscale(
                picture.pixels,
                scale=request.scale,
                size=request.size,
                resample=request.resample,
                truncate=request.truncate,
                seed=request.seed,
                temperature=request.temperature,
                progress=after_tile,
                warn=warnings.append,
                cancel=self._stopped,
            )
            seconds = time.perf_counter() - began
        finally:
            self._free.put(upscaler)
        with self._writing:
            self._check()
            write_picture(
                job.target, large, like=picture, force=request.force, depth=request.depth
            )
        return Done(job.source, job.target, *target, seconds, "; ".join(warnings) or None)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise CancelledError("the batch was stopped")

    def _tell_safely(self, steps: int, note: str) -> None:
        with self._telling:
            self._tell(steps, note)


class _PictureBar:
    """One picture's share of the bar."""

    def __init__(self, name: str, tell: Tell) -> None:
        self._name = name
        self._tell = tell
        self._steps = 0
        tell(0, name)

    def reach(self, steps: int) -> None:
        """Go forward to a step; where tiles were halved the next ones may be behind it."""
        if steps > self._steps:
            self._tell(steps - self._steps, self._name)
            self._steps = steps

    def after_tile(self, done: int, tiles: int) -> None:
        self.reach(STEPS * done // tiles)
