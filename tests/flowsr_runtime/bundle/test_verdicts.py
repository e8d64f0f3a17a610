"""Verdicts of self-tests are small files in the user's cache, or are not kept."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from flowsr_runtime.bundle import verdicts
from flowsr_runtime.bundle.verdicts import (
    Verdict,
    cache_folder,
    device_name,
    keep,
    kept_verdict,
    kept_verdicts,
)

KEY = {
    **{"interface": "python", "model": "ab", "golden": "cd", "backend": "onnxruntime"},
    **{"provider": "cpu", "library": "onnxruntime 1.32.0", "device": "a processor"},
    **{"precision": "fp32", "options": "", "engines": ""},
}
PASSED = Verdict(KEY, True, "max error 1e-07")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(verdicts, "cache_folder", cache_folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "flowsr-lp" / "self-tests"


@pytest.mark.skipif(sys.platform != "linux", reason="the rule is that of Linux")
def test_the_folder_is_that_of_the_platform(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder() == cache
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        below = tmp_path / "home" / ".cache" / "flowsr-lp" / "self-tests"
        assert cache_folder() == below


def test_without_a_home_nothing_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache_folder() is None
    assert not keep(PASSED)
    assert kept_verdict(KEY) is None
    assert list(kept_verdicts()) == []


def test_a_folder_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder would be")
    assert not keep(PASSED)
    assert kept_verdict(KEY) is None


def test_a_verdict_is_found_by_its_key_alone(cache: Path) -> None:
    assert keep(PASSED)
    assert kept_verdict(KEY) == PASSED
    for name in KEY:
        assert kept_verdict({**KEY, name: "another"}) is None
    missed = Verdict({**KEY, "provider": "cuda"}, False, "PSNR must be at least 50, got 12")
    assert keep(missed)
    assert sorted(kept_verdicts(), key=str) == sorted([PASSED, missed], key=str)
    assert str(missed).startswith("FAILED, PSNR must be at least 50, got 12: onnxruntime cuda")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"schema": 2}',
        b'{"schema": 1, "key": {}, "passed": true, "measured": ""}',
        b"[" * 30_000,
        json.dumps({**PASSED.as_dict(), "passed": 1}).encode(),
        json.dumps({**PASSED.as_dict(), "key": {**KEY, "model": "other"}}).encode(),
    ],
)
def test_a_file_that_is_no_verdict_for_the_key_is_ignored(cache: Path, content: bytes) -> None:
    keep(PASSED)
    (path,) = cache.iterdir()
    path.write_bytes(content)
    assert kept_verdict(KEY) is None


def test_a_processor_and_a_gpu_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[int, Any] = {0: "NVIDIA L4, compute 8.9, driver for CUDA 13.0"}
    monkeypatch.setattr(verdicts, "describe_gpu", shown.get)
    assert device_name("cuda", 0) == shown[0]
    assert device_name("tensorrt", 3) == "GPU 3"
    assert device_name("cpu", 0) == device_name("openvino", 0) != device_name("cuda", 0)
