"""cuDNN is found where ONNX Runtime finds it."""

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowsr_runtime.backends.cuda_provider import cudnn_version


def loader(present: dict[str, int], tried: list[str]) -> object:
    """Return a loader of libraries of which some are present, with their version."""

    def load(name: str) -> object:
        tried.append(name)
        if name not in present:
            raise OSError(f"{name}: cannot open shared object file")
        return SimpleNamespace(cudnnGetVersion=lambda: present[name])

    return load


def test_cudnn_of_the_system_is_taken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(ctypes, "CDLL", loader({"libcudnn.so.9": 91900}, tried))
    assert cudnn_version() == "9.19.0"
    assert tried == ["libcudnn.so.9"]


def test_cudnn_of_the_python_package_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "lib" / "libcudnn.so.9"
    library.parent.mkdir()
    library.write_bytes(b"")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(ctypes, "CDLL", loader({str(library): 90501}, []))
    assert cudnn_version() == "9.5.1"


def test_without_cudnn_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", loader({}, []))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cudnn_version() is None
