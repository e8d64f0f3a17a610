"""Ranges of the profiler: named while one records, free otherwise."""

import ctypes
import importlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from flowsr_runtime.cuda import nvtx
from flowsr_runtime.cuda.nvtx import is_profiled, nvtx_range


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Calls of a stand-in of the package nvtx."""
    made: list[str] = []
    module = SimpleNamespace(
        push_range=lambda name: made.append(f"push {name}"),
        pop_range=lambda: made.append("pop"),
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    for name in ("NSYS_PROFILING_SESSION_ID", "NVTX_INJECTION64_PATH", "FLOWSR_NVTX"):
        monkeypatch.delenv(name, raising=False)
    _forget()
    yield made
    _forget()


def _forget() -> None:
    is_profiled.cache_clear()
    nvtx._calls.cache_clear()


@pytest.mark.parametrize("name", ["NSYS_PROFILING_SESSION_ID", "FLOWSR_NVTX"])
def test_a_profiler_sees_nested_ranges(
    name: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    with nvtx_range("image"), nvtx_range("graph"):
        pass
    assert calls == ["push image", "push graph", "pop", "pop"]


def test_a_range_ends_with_an_error(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWSR_NVTX", "1")
    with pytest.raises(ValueError, match="of the block"), nvtx_range("graph"):
        raise ValueError("of the block")
    assert calls == ["push graph", "pop"]


def test_without_a_profiler_nothing_is_called(calls: list[str]) -> None:
    with nvtx_range("graph"):
        pass
    assert calls == []


def test_without_the_library_the_block_runs(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> object:
        raise (ImportError if name == "nvtx" else OSError)(name)

    monkeypatch.setenv("FLOWSR_NVTX", "1")
    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    done = []
    with nvtx_range("graph"):
        done.append(1)
    assert (done, calls) == ([1], [])
