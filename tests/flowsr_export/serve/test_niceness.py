"""Threads of low priority, and threads started by them."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from flowsr_export.serve.niceness import LOWEST, STEPS, lower_priority, run_at_low_priority

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="a priority is a thread's on Linux alone"
)


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_what_is_called_in_the_background_gives_way_and_so_do_its_threads() -> None:
    def started_there() -> tuple[int, int]:
        with ThreadPoolExecutor(1) as inner:
            return niceness(), inner.submit(niceness).result()

    before = niceness()
    expected = min(before + STEPS, LOWEST)
    assert run_at_low_priority(started_there) == (expected, expected)
    assert niceness() == before


def test_giving_way_twice_is_giving_way_once() -> None:
    def twice() -> int:
        lower_priority()
        lower_priority()
        return niceness()

    assert run_at_low_priority(twice) == min(niceness() + STEPS, LOWEST)


def test_an_error_in_the_background_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError, match="division"):
        run_at_low_priority(lambda: 1 // 0)
