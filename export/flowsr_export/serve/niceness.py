"""Lower the priority of compute threads to keep the event loop responsive."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["lower_priority", "run_at_low_priority"]

STEPS = 10
"""Niceness added to that of the process: a tenth of its CPU share under contention."""

LOWEST = 19

ResultT = TypeVar("ResultT")


def lower_priority() -> None:
    """Lower the priority of the calling thread; does nothing except on Linux."""
    if sys.platform == "linux":  # only Linux has a priority per thread
        niceness = os.getpriority(os.PRIO_PROCESS, os.getpid()) + STEPS
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness, LOWEST))


def run_at_low_priority(function: Callable[[], ResultT]) -> ResultT:
    """Call a function in a thread of low priority, and wait for its result.

    Threads inherit the priority of the thread that starts them, for example those that ONNX
    Runtime starts for a session.

    Args:
        function: Function to call.

    Returns:
        The function's result.
    """
    with ThreadPoolExecutor(1, initializer=lower_priority) as thread:
        return thread.submit(function).result()
