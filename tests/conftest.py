"""Fixtures and settings of all tests: the GPU, few threads, no deadlines."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from flowsr_runtime.bundle import verdicts
from flowsr_runtime.cuda.device import Device
from flowsr_runtime.errors import ProviderError

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: a thread of PyTorch each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Timings never decide a test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def gpu() -> Device:
    """The first GPU; the test is skipped where there is none."""
    try:
        return Device.open(0)
    except ProviderError as error:
        pytest.skip(f"needs a CUDA device: {error}")


@pytest.fixture(scope="session", autouse=True)
def _no_verdicts_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the verdicts of self-tests apart from those in the user's cache."""
    folder = tmp_path_factory.mktemp("verdicts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "cache_folder", lambda: folder)
        yield
