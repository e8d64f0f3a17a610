"""TensorRT messages reach `logging`, and its errors become exceptions."""

import logging
import threading
from typing import Any

import pytest

from flowsr_runtime.backends.engines.tensorrt_log import TensorrtLog
from flowsr_runtime.errors import BundleError, MemoryBudgetError, ProviderError
from tests.doubles.trt_module import fake_tensorrt


@pytest.fixture
def log() -> TensorrtLog:
    return TensorrtLog(fake_tensorrt("tensorrt-11"))


def say(log: TensorrtLog, severity: str, text: str) -> None:
    log.logger.log(getattr(log.logger.Severity, severity), text)


def test_messages_go_to_logging(log: TensorrtLog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    say(log, "WARNING", "careful")
    say(log, "VERBOSE", "by the way")
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "tensorrt: careful"),
        ("DEBUG", "tensorrt: by the way"),
    ]


def test_an_error_becomes_an_exception_of_one_line(log: TensorrtLog) -> None:
    say(log, "ERROR", "it\n  broke")
    say(log, "INTERNAL_ERROR", "badly")
    error: Any = log.failure("run")
    assert isinstance(error, ProviderError)
    assert str(error) == "tensorrt failed to run: it broke; badly"
    assert str(log.failure("run")) == "tensorrt failed to run: no reason given"


@pytest.mark.parametrize(
    "words",
    [
        "Error Code 2: OutOfMemory (Requested size was 5 bytes.)",
        "Requested amount of GPU memory (5 bytes) could not be allocated.",
        "CUDA error 2: out of memory",
    ],
)
def test_every_wording_of_a_failed_allocation_is_known(log: TensorrtLog, words: str) -> None:
    say(log, "ERROR", words)
    assert isinstance(log.failure("run"), MemoryBudgetError)


def test_a_refusal_is_about_the_engine(log: TensorrtLog) -> None:
    say(log, "ERROR", "exceeds the range")
    error = log.refusal("input of shape (1, 3)")
    assert isinstance(error, BundleError)
    assert str(error) == "the engine does not take input of shape (1, 3): exceeds the range"


def test_threads_do_not_hear_each_other(log: TensorrtLog) -> None:
    thread = threading.Thread(target=say, args=(log, "ERROR", "theirs"))
    thread.start()
    thread.join()
    assert "theirs" not in str(log.failure("run"))
