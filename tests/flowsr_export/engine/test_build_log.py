"""The builder's log: kept in a file, read for its figures, gone after an interruption."""

from pathlib import Path
from typing import Any

import pytest

from flowsr_export.engine.build_log import BuildLog
from flowsr_runtime.errors import OutputError
from tests.doubles.trt_module import fake_tensorrt


def test_every_message_is_in_the_file_with_its_severity(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "build.log") as log:
        log.add("VERBOSE", "a detail")
        log.add("ERROR", "a failure")
    lines = (tmp_path / "build.log").read_text().splitlines()
    assert [line.split()[1:] for line in lines] == [
        ["VERBOSE", "a", "detail"],
        ["ERROR", "a", "failure"],
    ]


def test_errors_warnings_memory_and_layers_are_kept() -> None:
    with BuildLog(None) as log:
        log.add("INTERNAL_ERROR", "first")
        log.add("ERROR", "second")
        log.add("WARNING", "third")
        log.add("INFO", "Max Scratch Memory: 4096 bytes")
        log.add("INFO", "Max Scratch Memory: 512 bytes")
        log.add("VERBOSE", "Layers:\nName: a")
    assert (log.errors, log.warnings) == (["first", "second"], ["third"])
    assert log.scratch == [4096, 512]
    assert log.layers == "Layers:\nName: a"


def test_an_interruption_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "build.log"
    log = BuildLog(path).__enter__()
    assert path.exists()
    log.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not path.exists()


def test_a_failure_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "build.log"
    with pytest.raises(ValueError, match="bad"), BuildLog(path):
        raise ValueError("bad")
    assert path.exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        BuildLog(tmp_path / "missing" / "build.log").__enter__()


def test_a_library_has_one_logger_that_writes_to_the_newest_log() -> None:
    trt: Any = fake_tensorrt("tensorrt-11")
    with BuildLog(None) as first:
        logger = first.logger(trt)
    with BuildLog(None) as second:
        assert second.logger(trt) is logger
        logger.log(trt.ILogger.ERROR, "late")
    assert (first.errors, second.errors) == ([], ["late"])


def test_a_message_after_the_end_does_no_harm(tmp_path: Path) -> None:
    with BuildLog(tmp_path / "build.log") as log:
        pass
    log.add("ERROR", "late")
    assert (tmp_path / "build.log").read_text() == ""
