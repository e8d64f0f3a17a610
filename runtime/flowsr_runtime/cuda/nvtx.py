"""Named ranges for NVIDIA's profilers; they cost nothing while no profiler records."""

import ctypes
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Final, TypeAlias

__all__ = ["is_profiled", "nvtx_range"]

_VARIABLES: Final = ("NSYS_PROFILING_SESSION_ID", "NVTX_INJECTION64_PATH", "FLOWSR_NVTX")
"""Environment variables: the first two are set by Nsight, the last one by hand."""

_LIBRARIES: Final = ("libnvToolsExt.so.1", "libnvToolsExt.so")

_Calls: TypeAlias = tuple[Callable[[str], object], Callable[[], object]]


@cache
def is_profiled() -> bool:
    """Return whether a profiler started this process, or FLOWSR_NVTX is set."""
    return any(os.environ.get(name) for name in _VARIABLES)


@contextmanager
def nvtx_range(name: str) -> Iterator[None]:
    """Name the work of a block in the timeline of a profiler.

    Args:
        name: Name of the range.
    """
    calls = _calls() if is_profiled() else None
    if calls is None:
        yield
        return
    push, pop = calls
    push(name)
    try:
        yield
    finally:
        pop()


@cache
def _calls() -> _Calls | None:
    """Return the calls that begin and end a range, None where NVTX is not installed."""
    with suppress(ImportError):
        module = importlib.import_module("nvtx")
        return module.push_range, module.pop_range
    for name in _LIBRARIES:
        with suppress(OSError):
            return _calls_of(ctypes.CDLL(name))
    return None


def _calls_of(library: ctypes.CDLL) -> _Calls:
    return lambda text: library.nvtxRangePushA(text.encode()), library.nvtxRangePop
