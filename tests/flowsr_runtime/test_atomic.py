"""Files and directories are written completely or not at all."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from flowsr_runtime import atomic as disk
from flowsr_runtime.atomic import (
    locked,
    needs_recovery,
    recover_directory,
    replace_directory,
    replace_file,
)
from flowsr_runtime.errors import OutputError

SCRIPT = Path(__file__).with_name("fault_injection.py")
RUNTIME = Path(__file__).parents[3] / "runtime"


def outcomes_of(
    folder: Path, manifest: dict[str, Any], fault: str, method: str
) -> list[tuple[str, str]]:
    """Return (report, version found) for a fault at each step of replacing a bundle."""
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": {}}))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), fault, method],
        env={**os.environ, "PYTHONPATH": str(RUNTIME)},
        capture_output=True,
        check=True,
        text=True,
    )
    result = json.loads(done.stdout)
    assert result["leftovers"] == ["bundle", "manifest.json"]
    return [(report, version) for report, version in result["outcomes"]]


@pytest.mark.parametrize("method", ["exchange", "rename"])
@pytest.mark.parametrize(
    ("fault", "reports"),
    [
        ("kill", {("killed", "old"), ("killed", "new"), ("done", "new")}),
        ("fail", {("refused", "old"), ("done", "new")}),
    ],
)
def test_a_fault_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, manifest: dict[str, Any], method: str, fault: str, reports: set[Any]
) -> None:
    outcomes = outcomes_of(tmp_path, manifest, fault, method)
    assert set(outcomes) == reports
    assert [version for _, version in outcomes].count("old") >= 10
    assert outcomes[-1] == ("done", "new")


@pytest.mark.parametrize("name", ["a.bin", "ñ" * 120 + ".bin"])
def test_a_file_is_replaced_whole(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left on device"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.bin", tmp_path / "b.bin"
    replace_file(path, b"new")
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "d"
    replace_directory(target, {"a": b"1", "sub/b": b"2"})
    replace_directory(target, {"c": b"3"})
    assert [path.name for path in target.iterdir()] == ["c"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_stands_aside_is_put_back_but_does_not_replace_the_new(tmp_path: Path) -> None:
    aside, target = tmp_path / ".d.old", tmp_path / "d"
    aside.mkdir()
    assert needs_recovery(target)
    recover_directory(target)
    assert list(tmp_path.iterdir()) == [target]
    aside.mkdir()
    assert not needs_recovery(target)
    recover_directory(target)
    assert aside.is_dir()


def test_a_lock_keeps_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LOCK_SECONDS", 0.1)
    with (
        locked(tmp_path / "d"),
        pytest.raises(OutputError, match=r"another process is writing .*d"),
        locked(tmp_path / "d"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with locked(tmp_path / "d"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with locked(tmp_path / "d"):
        waiting.start()
        time.sleep(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
