"""Fixtures and settings of all tests: the GPU, few threads, no deadlines, absent libraries."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from flowsr_runtime.bundle import verdicts
from flowsr_runtime.errors import ProviderError

if TYPE_CHECKING:
    from flowsr_runtime.cuda.device import Device

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: a thread of PyTorch each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Timings never decide a test, and a run is the same each time: a property that fails for one
# example in thousands is found by a run with FLOWSR_RANDOM_TESTS=1, which tries new ones.
settings.register_profile(
    "repeatable", deadline=None, derandomize="FLOWSR_RANDOM_TESTS" not in os.environ
)
settings.load_profile("repeatable")

# Libraries of extras that a machine on which tests run may lack.
OPTIONAL = frozenset(
    [
        *("cuda", "fastapi", "httpx", "jinja2", "matplotlib", "onnxruntime", "playwright"),
        *("polygraphy", "psutil", "ray", "tensorrt_rtx", "tifffile", "tritonclient", "uvicorn"),
    ]
)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a file that needs a library of an extra, instead of failing to collect it."""
    report = yield
    found = re.search(r"No module named '(\w+)", str(report.longrepr or ""))
    if report.outcome == "failed" and found is not None and found[1] in OPTIONAL:
        report.outcome = "skipped"
        reason = f"Skipped: needs {found[1]}, which is not installed"
        report.longrepr = (str(collector.path), 0, reason)
    return report


@pytest.fixture
def gpu() -> Device:
    """The first GPU; the test is skipped where there is none."""
    device = pytest.importorskip("flowsr_runtime.cuda.device", exc_type=ImportError)
    try:
        opened: Device = device.Device.open(0)
    except ProviderError as error:
        pytest.skip(f"needs a CUDA device: {error}")
    return opened


@pytest.fixture(scope="session", autouse=True)
def _no_verdicts_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the verdicts of self-tests apart from those in the user's cache."""
    folder = tmp_path_factory.mktemp("verdicts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "cache_folder", lambda: folder)
        yield
