"""Calls are cancelled between two tiles."""

from threading import Event

import numpy as np
import pytest
from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.errors import CancelledError
from flowsr_runtime.upscaling.cancellation import raise_if_cancelled
from flowsr_runtime.upscaling.upscaler import Upscaler

SMALL_BUDGET = 20_000


@pytest.fixture
def upscaler(bundles: dict[str, Bundle]) -> Upscaler:
    return Upscaler.open(bundles["bilinear"], threads=1, memory_budget=SMALL_BUDGET)


def test_nothing_that_cancels_is_nothing_to_call() -> None:
    assert raise_if_cancelled(None, None) is None


def test_progress_is_told_before_a_call_stops() -> None:
    seen: list[tuple[int, int]] = []
    event = Event()
    look = raise_if_cancelled(event, lambda done, tiles: seen.append((done, tiles)))
    assert look is not None
    look(1, 3)
    event.set()
    with pytest.raises(CancelledError, match="cancelled after 2 of 3 tiles"):
        look(2, 3)
    assert seen == [(1, 3), (2, 3)]


def test_a_set_event_stops_before_the_first_tile(
    upscaler: Upscaler, photo: NDArray[np.uint8]
) -> None:
    event = Event()
    event.set()
    with pytest.raises(CancelledError, match="cancelled before the first tile"):
        upscaler.upscale(photo, 4, cancel=event)


def test_an_event_stops_between_two_tiles(upscaler: Upscaler, photo: NDArray[np.uint8]) -> None:
    event, seen = Event(), []

    def progress(done: int, tiles: int) -> None:
        seen.append(done)
        event.set() if done == 2 else None

    with pytest.raises(CancelledError, match=r"cancelled after 2 of \d+ tiles"):
        upscaler.upscale(photo, 4, cancel=event, progress=progress)
    assert seen == [1, 2]


def test_after_a_cancelled_call_the_next_one_is_whole(
    upscaler: Upscaler, photo: NDArray[np.uint8]
) -> None:
    due = upscaler.upscale(photo, 4)
    with pytest.raises(CancelledError, match="cancelled"):
        upscaler.upscale(photo, 4, cancel=lambda: True)
    np.testing.assert_array_equal(upscaler.upscale(photo, 4, cancel=lambda: False), due)
