"""The pool: bounded queue, cancellation, and orderly shutdown."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError as WaitingCancelled
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import BusyError, CancelledError, ShapeError, UsageError
from flowsr_runtime.upscaling.pool import PendingPicture, UpscalerPool
from flowsr_runtime.upscaling.upscaler import Upscaler

Photo = NDArray[np.uint8]
SMALL_BUDGET = 20_000
SCALE = 4


@pytest.fixture
def upscaler(bundles: dict[str, Bundle]) -> Iterator[Upscaler]:
    with Upscaler.open(bundles["bilinear"], threads=1, memory_budget=SMALL_BUDGET) as opened:
        yield opened


class Gate:
    """Holds a call after its first tile until it is opened, and counts its tiles."""

    def __init__(self) -> None:
        self.entered, self.opened, self.tiles = Event(), Event(), 0

    def progress(self, done: int, tiles: int) -> None:
        self.tiles = done
        self.entered.set()
        self.opened.wait()

    def submit(self, pool: UpscalerPool, photo: Photo) -> PendingPicture[Any]:
        """Submit a picture and wait until its first tile is done."""
        pending = pool.submit(photo, SCALE, progress=self.progress)
        self.entered.wait()
        return pending


def test_a_result_is_that_of_the_upscaler(upscaler: Upscaler, photo: Photo) -> None:
    scales: list[Any] = [1.3, 2, (2.7, 3.6)]
    with UpscalerPool(upscaler, workers=2) as pool:
        pending = [pool.submit(photo, scale) for scale in scales]
        results = [each.result() for each in pending]
    for result, scale in zip(results, scales, strict=True):
        np.testing.assert_array_equal(result, upscaler.upscale(photo, scale))


def test_each_thread_begins_with_what_it_is_told(upscaler: Upscaler, photo: Photo) -> None:
    threads: list[str] = []
    with UpscalerPool(
        upscaler, begin=lambda: threads.append(threading.current_thread().name)
    ) as pool:
        for _ in range(2):
            pool.submit(photo, 2).result()
    assert threads == ["flowsr_0"]


@pytest.mark.parametrize("queue", [0, 1, 3])
def test_what_has_no_place_is_refused_at_once(
    upscaler: Upscaler, photo: Photo, queue: int
) -> None:
    gate = Gate()
    with UpscalerPool(upscaler, workers=1, queue=queue) as pool:
        running = gate.submit(pool, photo)
        waiting = [pool.submit(photo, SCALE) for _ in range(queue)]
        with pytest.raises(BusyError, match=f"all 1 workers are busy and {queue} pictures"):
            pool.submit(photo, SCALE)
        assert pool.load == (1, queue)
        gate.opened.set()
        shapes = {each.result().shape for each in (running, *waiting)}
    assert shapes == {(92, 124, 3)}


def test_whoever_has_a_result_finds_its_place_free(upscaler: Upscaler) -> None:
    image = np.zeros((2, 2), np.uint8)
    with UpscalerPool(upscaler, workers=1, queue=0) as pool:
        results = [pool.submit(image, 2).result() for _ in range(200)]
    assert len(results) == 200


def test_one_that_waits_is_cancelled_and_gives_its_place_free(
    upscaler: Upscaler, photo: Photo
) -> None:
    gate = Gate()
    with UpscalerPool(upscaler, workers=1, queue=1) as pool:
        gate.submit(pool, photo)
        waiting = pool.submit(photo, SCALE)
        assert waiting.cancel()
        assert pool.load == (1, 0)
        again = pool.submit(photo, SCALE)
        gate.opened.set()
        assert again.result().shape == (92, 124, 3)
    with pytest.raises(WaitingCancelled):  # match has nothing to match: it has no text
        waiting.result()


def test_one_that_runs_stops_at_its_next_tile(upscaler: Upscaler, photo: Photo) -> None:
    gate = Gate()
    with UpscalerPool(upscaler, workers=1) as pool:
        running = gate.submit(pool, photo)
        assert not running.cancel()
        gate.opened.set()
        with pytest.raises(CancelledError, match=r"cancelled after 1 of \d+ tiles"):
            running.result()
    assert gate.tiles == 1


def test_a_full_pool_goes_on_when_all_that_waits_is_cancelled(
    upscaler: Upscaler, photo: Photo
) -> None:
    gate = Gate()
    with UpscalerPool(upscaler, workers=1, queue=2) as pool:
        gate.submit(pool, photo)
        given_up = [pool.submit(photo, SCALE).cancel() for _ in range(50)]
        kept = [pool.submit(photo, SCALE) for _ in range(2)]
        gate.opened.set()
        results = [each.result() for each in kept]
    assert all(given_up)
    assert len(results) == 2


def test_errors_come_with_the_future(upscaler: Upscaler) -> None:
    with UpscalerPool(upscaler) as pool:
        pending = pool.submit(np.zeros((2, 2, 5), np.uint8), 2)
        with pytest.raises(ShapeError, match=r"must be \(h, w\) or \(h, w, 1 to 4\)"):
            pending.result()
        assert pool.submit(np.zeros((2, 2), np.uint8), 2).result().shape == (4, 4)


def test_closing_finishes_what_was_accepted(upscaler: Upscaler, photo: Photo) -> None:
    pool = UpscalerPool(upscaler, workers=2, queue=6)
    pending = [pool.submit(photo, SCALE) for _ in range(8)]
    pool.close()
    assert all(each.done() and each.exception() is None for each in pending)
    assert not [each for each in threading.enumerate() if each.name.startswith("flowsr")]


def test_closing_without_waiting_gives_everything_up(upscaler: Upscaler, photo: Photo) -> None:
    gate = Gate()
    pool = UpscalerPool(upscaler, workers=1, queue=3)
    running = gate.submit(pool, photo)
    waiting = [pool.submit(photo, SCALE) for _ in range(3)]
    pool.close(wait=False)
    gate.opened.set()
    pool.close()
    assert all(each.cancelled() for each in waiting)
    assert isinstance(running.exception(), CancelledError)


def test_a_closed_pool_takes_nothing_and_leaves_the_upscaler_open(
    upscaler: Upscaler, photo: Photo
) -> None:
    with UpscalerPool(upscaler) as pool:
        pass
    pool.close()
    with pytest.raises(UsageError, match="the pool is closed"):
        pool.submit(photo, SCALE)
    assert upscaler.upscale(photo, 1).shape == photo.shape


@pytest.mark.parametrize(
    ("workers", "queue", "message"),
    [
        (0, 1, "workers must be a whole number of at least 1, got 0"),
        (1, -1, "queue must be a whole number of at least 0, got -1"),
        (1.5, 1, "workers must be a whole number of at least 1, got 1.5"),
        (True, 1, "workers must be a whole number of at least 1, got True"),
    ],
)
def test_other_numbers_are_refused(
    upscaler: Upscaler, workers: Any, queue: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        UpscalerPool(upscaler, workers, queue)


def test_an_error_at_the_start_of_a_thread_loses_no_place(
    upscaler: Upscaler, photo: Photo, caplog: pytest.LogCaptureFixture
) -> None:
    def begin() -> None:
        raise PermissionError("no priority for you")

    with UpscalerPool(upscaler, queue=0, begin=begin) as pool:
        for _ in range(3):
            assert pool.submit(photo, SCALE).result().shape[0] == SCALE * photo.shape[0]
    assert [record.getMessage() for record in caplog.records] == [
        "the function at the start of a thread failed"
    ]


def test_a_thread_that_cannot_start_loses_no_place(
    upscaler: Upscaler, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with UpscalerPool(upscaler, queue=0) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(photo, SCALE)
        assert pool.load == (0, 0)
        assert pool.submit(photo, SCALE).result().shape[0] == SCALE * photo.shape[0]
