"""Opening a session checks its arguments and says what is missing."""

import sys
from typing import Any

import pytest

from flowsr_runtime.bundle import Bundle
from flowsr_runtime.errors import BackendError, UsageError
from flowsr_runtime.session import open_session


def test_a_session_says_what_it_runs_on(bundle: Bundle) -> None:
    session = open_session(bundle)
    assert (session.backend, session.provider, session.device) == ("onnxruntime", "cpu", 0)


def test_an_unknown_backend_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"backend must be one of onnxruntime, .* got 'caffe'"):
        open_session(bundle, backend="caffe")


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_a_reserved_backend_says_so(bundle: Bundle, backend: str) -> None:
    with pytest.raises(BackendError, match=f"backend {backend} is not in this version; use"):
        open_session(bundle, backend=backend)


def test_a_missing_library_names_the_remedy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "flowsr_runtime.onnxruntime_session", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    remedy = r"onnxruntime is not installed; pip install 'flowsr-lp\[cpu\]'"
    with pytest.raises(BackendError, match=remedy):
        open_session(bundle)


def test_a_broken_library_says_why(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flowsr_runtime.onnxruntime_session", None)
    with pytest.raises(BackendError, match="onnxruntime cannot be loaded: import of flowsr_"):
        open_session(bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"threads": 1.5}, r"threads must be a whole number, got 1\.5"),
        ({"device": -1}, "device must be at least 0, got -1"),
        ({"device": "gpu"}, "device must be a whole number, got 'gpu'"),
        ({"device": 1}, "device must be 0 with provider cpu, got 1"),
        ({"provider": "rocm"}, "provider must be one of cpu, cuda, .* got 'rocm'"),
    ],
)
def test_a_bad_argument_is_refused(
    bundle: Bundle, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_session(bundle, **options)
