"""A resource is freed once, after the last call in flight."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning  # on 3.10 not the builtin one
from threading import Event

import pytest

from flowsr_runtime.errors import UsageError
from flowsr_runtime.upscaling.in_flight import InFlightCalls

SOON = 0.05
"""Seconds in which a wrong return would show; a right one does not depend on it."""


@pytest.fixture
def freed() -> list[str]:
    return []


@pytest.fixture
def in_flight(freed: list[str]) -> InFlightCalls:
    return InFlightCalls("model", lambda: freed.append("freed"))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_closing_frees_once(in_flight: InFlightCalls, freed: list[str]) -> None:
    in_flight.close()
    in_flight.close()
    assert freed == ["freed"]


def test_after_closing_nobody_gets_in(in_flight: InFlightCalls) -> None:
    in_flight.close()
    with pytest.raises(UsageError, match="the model is closed"), in_flight.track():
        pass


def test_closing_waits_for_calls_of_other_threads(
    in_flight: InFlightCalls, freed: list[str], threads: ThreadPoolExecutor
) -> None:
    entered, leave = Event(), Event()

    def call() -> None:
        with in_flight.track():
            entered.set()
            leave.wait()

    running = threads.submit(call)
    entered.wait()
    closing = threads.submit(in_flight.close)
    with pytest.raises(StillRunning):
        closing.result(timeout=SOON)
    assert freed == []
    leave.set()
    running.result()
    closing.result()
    assert freed == ["freed"]


def test_closing_from_inside_a_call_frees_at_its_end(
    in_flight: InFlightCalls, freed: list[str]
) -> None:
    with in_flight.track():
        in_flight.close()
        assert freed == []
    assert freed == ["freed"]


def test_a_call_that_fails_leaves_too(in_flight: InFlightCalls, freed: list[str]) -> None:
    with pytest.raises(ValueError, match="broken"), in_flight.track():
        raise ValueError("broken")
    in_flight.close()
    assert freed == ["freed"]
