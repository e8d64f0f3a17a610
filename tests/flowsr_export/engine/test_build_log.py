"""The builder's log and progress."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowsr_export.engine.build_log import BuildLog, BuildProgress
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


def test_two_builds_have_a_log_each_and_an_interruption_leaves_that_of_the_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "build.log"
    with BuildLog(path) as first:
        first.add("INFO", "one")
        second = BuildLog(path).__enter__()
        second.add("INFO", "two")
        assert second.path == tmp_path / f"build.{os.getpid()}.log"
        second.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "one" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["build.log"]
    with BuildLog(path):
        assert path.read_text() == ""


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_full_disk_cuts_the_log_with_one_line_and_the_build_goes_on(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with BuildLog(Path("/dev/full")) as log:
        for _ in range(3):
            log.add("ERROR", "x" * size)
    assert [len(text) for text in log.errors] == [size] * 3
    assert caplog.messages == ["log /dev/full is incomplete: No space left on device"]


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


def test_a_step_inside_a_step_counts_as_its_part() -> None:
    progress = BuildProgress()
    progress.start("build", None, 4)
    progress.step("build", 0)
    progress.start("tactics", "build", 10)
    progress.step("tactics", 4)
    assert progress.share == (1 + 5 / 10) / 4
    assert progress.phase == "tactics"


def test_the_share_does_not_fall_when_a_phase_ends() -> None:
    progress = BuildProgress()
    progress.start("build", None, 2)
    progress.start("tactics", "build", 2)
    progress.step("tactics", 1)
    assert progress.share == 0.5
    progress.finish("tactics")
    assert progress.share == 0.5
    assert progress.phase == "build"


def test_every_step_goes_on_until_it_is_cancelled() -> None:
    progress = BuildProgress()
    progress.start("build", None, 2)
    assert progress.step("build", 0)
    progress.cancel()
    assert not progress.step("build", 1)


def test_nothing_has_begun_and_everything_has_ended_without_a_phase() -> None:
    progress = BuildProgress()
    assert (progress.share, progress.phase) == (0.0, "")
    progress.start("build", None, 1)
    progress.finish("build")
    assert progress.phase == ""


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40))
def test_any_order_of_calls_stays_within_bounds(calls: list[tuple[int, int]]) -> None:
    progress, shares = BuildProgress(), [0.0]
    for phase, step in calls:
        progress.start(f"phase {phase}", f"phase {phase - 1}" if phase else None, 3)
        progress.step(f"phase {phase}", step)
        shares.append(progress.share)
    assert shares == sorted(shares)
    assert shares[-1] <= 1
