"""One model on several simulated GPUs."""

from pathlib import Path
from typing import Any

import pytest

from flowsr_export.upscale.devices import open_upscalers
from flowsr_export.upscale.jobs import Job, Request
from flowsr_export.upscale.pipeline import upscale_all
from flowsr_runtime import Bundle, SessionSettings
from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession
from flowsr_runtime.errors import ProviderError, UsageError

ON_GPU = SessionSettings("tensorrt", workers=2)


class OnGpu:
    """A session that computes on the CPU and says that it is on a GPU."""

    backend, provider = "tensorrt", "cuda"
    limits, library = None, "a library 1"

    def __init__(self, bundle: Bundle, device: int) -> None:
        self.device = device
        self._inner = OnnxRuntimeSession.open(bundle, threads=1)
        self.closed = False

    def run(self, feeds: Any) -> Any:
        return self._inner.run(feeds)

    def close(self) -> None:
        self.closed = True
        self._inner.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[OnGpu]:
    """A machine with four GPUs, and the sessions that are opened on it."""
    sessions: list[OnGpu] = []

    def open_on(settings: SessionSettings, bundle: Bundle) -> OnGpu:
        if settings.index > 3:
            raise ProviderError(f"device {settings.index} is missing")
        sessions.append(OnGpu(bundle, settings.index))
        return sessions[-1]

    monkeypatch.setattr(SessionSettings, "start", open_on)
    return sessions


def test_each_device_has_a_session_of_its_own(bundle: Path, opened: list[OnGpu]) -> None:
    with open_upscalers(Bundle.open(bundle), ON_GPU, (0, 2, 3), halo="exact") as upscalers:
        assert [upscaler.halo for upscaler in upscalers] == ["exact"] * 3
        assert [session.closed for session in opened] == [False] * 3
    assert [session.device for session in opened] == [0, 2, 3]
    assert [session.closed for session in opened] == [True] * 3


def test_without_devices_there_is_the_one_of_the_settings(
    bundle: Path, opened: list[OnGpu]
) -> None:
    settings = SessionSettings("tensorrt", device=2)
    with open_upscalers(Bundle.open(bundle), settings) as upscalers:
        assert len(upscalers) == 1
    assert [session.device for session in opened] == [2]


def test_a_device_that_is_missing_closes_the_others(bundle: Path, opened: list[OnGpu]) -> None:
    devices = open_upscalers(Bundle.open(bundle), ON_GPU, (0, 9))
    with pytest.raises(ProviderError, match="device 9 is missing"):
        devices.__enter__()
    assert [session.closed for session in opened] == [True]


def test_max_memory_bounds_one_run_of_each_gpu(bundle: Path, opened: list[OnGpu]) -> None:
    model = Bundle.open(bundle)
    with open_upscalers(model, ON_GPU, (0, 1), max_memory=60_000) as upscalers:
        plans = [upscaler.plan((60, 60), 4) for upscaler in upscalers]
    assert all(plan.run_bytes == plan.peak_bytes <= 60_000 for plan in plans)
    assert all(len(plan) > 1 for plan in plans)


def test_two_devices_enlarge_a_folder(
    bundle: Path, pictures: Path, tmp_path: Path, opened: list[OnGpu]
) -> None:
    jobs = [Job(path, tmp_path / path.name) for path in sorted(pictures.iterdir())]
    with open_upscalers(Bundle.open(bundle), ON_GPU, (0, 1)) as upscalers:
        report = upscale_all(jobs, upscalers, Request("2", None), lambda steps, note: None)
    assert [done.target for done in report.done] == [job.target for job in jobs]


@pytest.mark.parametrize("provider", [None, "cpu", "openvino"])
def test_devices_of_a_cpu_are_refused(
    bundle: Path, opened: list[OnGpu], provider: str | None
) -> None:
    settings = SessionSettings("onnxruntime", provider)
    devices = open_upscalers(Bundle.open(bundle), settings, (0, 1))
    name = provider or "cpu"
    with pytest.raises(UsageError, match=f"provider {name}"):
        devices.__enter__()
    assert opened == []


def test_a_device_is_given_once(bundle: Path, opened: list[OnGpu]) -> None:
    devices = open_upscalers(Bundle.open(bundle), ON_GPU, (1, 1))
    with pytest.raises(UsageError, match=r"\[1, 1\]"):
        devices.__enter__()
    assert opened == []
