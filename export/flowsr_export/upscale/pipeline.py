"""Read, upscale and write images concurrently."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Semaphore
from typing import Any

from numpy.typing import NDArray

from flowsr_export.upscale.jobs import Done, Failure, Job, Report, Request, failure_of, prepare
from flowsr_export.upscale.outputs import write_result
from flowsr_runtime import Upscaler
from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.errors import (
    CancelledError,
    NonFiniteError,
    OutputError,
    PictureError,
    ScaleError,
    ShapeError,
)
from flowsr_runtime.tiling.memory import ON_HOST, peak_bytes

__all__ = ["IMAGE_ERRORS", "STEPS", "upscale_all", "upscale_file"]

# Errors that concern one image; any other error stops the batch.
IMAGE_ERRORS = (MemoryError, NonFiniteError, OutputError, PictureError, ScaleError, ShapeError)

STEPS = 1000
"""Progress steps per image, independent of its number of tiles."""

WRITERS = 4  # most files that are encoded at once beside a GPU, on a core each

Advance = Callable[[int, str], None]


def upscale_all(
    jobs: Sequence[Job],
    upscalers: Sequence[Upscaler],
    request: Request,
    advance: Advance,
    *,
    finished: Callable[[str], None] = lambda name: None,
    overlap: bool = True,
    begin: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Report:
    """Upscale every image; an image that fails does not stop the others.

    Reading, upscaling and writing overlap; memory holds the images in the models, one being
    read, and one being written, on a GPU up to four. An interruption takes effect after the
    running tiles and the files being written.

    Args:
        jobs: Jobs made by `jobs.plan`.
        upscalers: Open models, one per device; each image goes to a free one.
        request: Parameters.
        advance: Called with (steps, file name) after each tile, by one thread at a time;
            an image has `STEPS` steps.
        finished: Called with the file name after each image, by one thread at a time.
        overlap: Process several images at once, instead of one after another.
        begin: Called once, after the first tile of the batch.
        warn: Called with one line when values are far out of range or memory runs out.

    Returns:
        Upscaled images and failures, in the order of the jobs.

    Raises:
        FlowsrError: If an error does not concern a single image, such as a damaged bundle.
        KeyboardInterrupt: If the user stops the batch, with the number of images made.
    """
    began = time.perf_counter()
    pipeline = _Pipeline(upscalers, request, advance, finished, begin, warn)
    threads = len(upscalers) + 1 + pipeline.writers if overlap else 1
    with ThreadPoolExecutor(threads, thread_name_prefix="flowsr-picture") as pool:
        futures = [pool.submit(pipeline.run, job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt as error:
            pipeline.stop()
            pool.shutdown(cancel_futures=True)
            raise KeyboardInterrupt(_reached(futures)) from error
        finally:
            pipeline.stop()
            pool.shutdown(cancel_futures=True)
    if pipeline.error is not None:
        raise pipeline.error
    outcomes = [future.result() for future in futures]
    done = tuple(outcome for outcome in outcomes if isinstance(outcome, Done))
    failures = tuple(outcome for outcome in outcomes if isinstance(outcome, Failure))
    seconds = time.perf_counter() - began
    return Report(done, failures, seconds=seconds, peak_bytes=peak_bytes())


def _reached(futures: Sequence[Future[Done | Failure]]) -> str:
    """Return how many images were made, after all threads have ended."""
    ended = [one for one in futures if one.done() and not one.cancelled()]
    done = sum(isinstance(one.result(), Done) for one in ended if one.exception() is None)
    return f"{done} of {len(futures)} images are done"


def upscale_file(job: Job, upscaler: Upscaler, request: Request) -> Done:
    """Upscale one image from file to file.

    Args:
        job: Input and output file.
        upscaler: Open model.
        request: Parameters.

    Returns:
        The upscaled image.

    Raises:
        FlowsrError: If the image cannot be read, upscaled or written.
    """
    pipeline = _Pipeline(
        [upscaler], request, lambda steps, note: None, lambda name: None, lambda: None
    )
    return pipeline.upscale(job, lambda done, tiles: None)


class _Pipeline:
    """One reader, writers and upscalers, shared by the threads of a batch.

    Attributes:
        error: Error that stopped the batch.
        writers: Number of files that are encoded at once.
    """

    def __init__(
        self,
        upscalers: Sequence[Upscaler],
        request: Request,
        advance: Advance,
        finished: Callable[[str], None],
        begin: Callable[[], None],
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.error: BaseException | None = None
        self._free: SimpleQueue[Upscaler] = SimpleQueue()
        for upscaler in upscalers:
            self._free.put(upscaler)
        self._any = upscalers[0]
        self._request = request
        self._advance, self._finished, self._warn = advance, finished, warn
        self._begin: Callable[[], None] | None = begin
        self.writers = 1
        if self._any.provider not in ON_HOST:
            # A GPU makes pictures faster than one core encodes them.
            self.writers = max(1, min(WRITERS, usable_cores() - 1))
        self._advancing, self._reading = Lock(), Lock()
        self._writing = Semaphore(self.writers)
        self._stopped = Event()

    def stop(self) -> None:
        """Start no further image, tile or file."""
        self._stopped.set()

    def run(self, job: Job) -> Done | Failure:
        """Process one image and return its outcome."""
        reached = 0

        def reach(steps: int) -> None:
            """Advance to a step; after tiles are halved, the next ones may be behind it."""
            nonlocal reached
            with self._advancing:
                self._advance(max(steps - reached, 0), job.source.name)
            reached = max(steps, reached)

        def after_tile(done: int, tiles: int) -> None:
            with self._advancing:
                begin, self._begin = self._begin, None
                if begin is not None:
                    begin()
            reach(STEPS * done // tiles)

        reach(0)
        try:
            outcome: Done | Failure = self.upscale(job, after_tile)
        except IMAGE_ERRORS as error:
            outcome = failure_of(job, error)
        except CancelledError:  # another image or the user has stopped the batch
            raise
        except BaseException as error:
            self.error = self.error or error
            self.stop()
            raise
        reach(STEPS)
        with self._advancing:
            self._finished(job.source.name)
        return outcome

    def upscale(self, job: Job, after_tile: Callable[[int, int], None]) -> Done:
        """Read, upscale and write one image."""
        request = self._request.of(job)
        with self._reading:
            self._check()
            animation, size = prepare(job, self._any, request)
        count = len(animation.frames)
        warnings: list[str] = []

        def warn(line: str) -> None:
            if line not in warnings:
                warnings.append(line)
                with self._advancing:
                    self._warn(f"{job.source}: {line}")

        results: list[NDArray[Any]] = []
        upscaler = self._free.get()
        try:
            began = time.perf_counter()
            strength = request.strength()
            for index, frame in enumerate(animation.frames):
                self._check()
                results.append(
                    upscaler.upscale(
                        frame.pixels,
                        scale=request.scale,
                        size=request.size_for(frame.size),
                        resample=request.resample,
                        truncate=request.truncate,
                        seed=request.seed,
                        temperature=request.temperature,
                        prior_mix=request.prior_mix,
                        temperature_map=strength,
                        progress=partial(_after_tile_of, index, count, after_tile),
                        warn=warn,
                        cancel=self._stopped,
                    )
                )
            seconds = time.perf_counter() - began
        finally:
            self._free.put(upscaler)
        with self._writing:
            self._check()
            write_result(
                job.target,
                request.format_of(job.target),
                animation,
                results,
                force=request.force,
                depth=request.depth,
                quality=request.quality,
            )
        warning = "; ".join(warnings) or None
        return Done(job.source, job.target, *size, seconds, warning, count)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise CancelledError("the batch was stopped")


def _after_tile_of(
    frame: int, frames: int, after_tile: Callable[[int, int], None], done: int, tiles: int
) -> None:
    """Call after a tile of one of several frames, as if all had as many tiles."""
    after_tile(frame * tiles + done, frames * tiles)
