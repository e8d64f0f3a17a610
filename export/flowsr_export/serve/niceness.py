"""Threads that compute give way to the one that answers, while every core is busy."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["lower_priority", "run_at_low_priority"]

STEPS = 10
"""Steps of niceness below the process: a tenth of its weight while both want a core."""

LOWEST = 19

ResultT = TypeVar("ResultT")


def lower_priority() -> None:
    """Lower the priority of the thread that calls; elsewhere than on Linux nothing is done."""
    if sys.platform == "linux":  # where a priority is a thread's
        niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + STEPS
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness, LOWEST))


def run_at_low_priority(function: Callable[[], ResultT]) -> ResultT:
    """Call a function in a thread that gives way, and wait for its result.

    The threads that a library starts meanwhile, as ONNX Runtime does for a session, have the
    priority of the thread that starts them.

    Args:
        function: What to call.

    Returns:
        What it returns.
    """
    with ThreadPoolExecutor(1, initializer=lower_priority) as thread:
        return thread.submit(function).result()
