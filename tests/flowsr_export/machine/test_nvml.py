"""Energy and throttling, read from a stand-in of the driver's library."""

import ctypes
from typing import Any

import pytest

from flowsr_export.machine.nvml import open_gpu_meter
from flowsr_runtime.cuda.device import Device

NOT_SUPPORTED = 3


class FakeNvml:
    """Two GPUs, by index and by UUID; energy and reasons are what a test sets."""

    names = (b"0", b"1", b"GPU-b")

    def __init__(self, *, counts_energy: bool = True, starts: bool = True) -> None:
        self.millijoules, self.reasons = 5000, 0
        self.counts_energy, self.starts = counts_energy, starts
        self.opened: list[object] = []

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0 if self.starts else 9

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        return self._open(str(index).encode())

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:  # noqa: N802
        return self._open(name)

    def _open(self, name: bytes) -> int:
        self.opened.append(name)
        return 0 if name in self.names else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:  # noqa: N802
        _set(value, self.millijoules)
        return 0 if self.counts_energy else NOT_SUPPORTED

    def nvmlDeviceGetCurrentClocksThrottleReasons(  # noqa: N802
        self, handle: Any, value: Any
    ) -> int:
        _set(value, self.reasons)
        return 0


def _set(reference: Any, value: int) -> None:
    ctypes.cast(reference, ctypes.POINTER(ctypes.c_ulonglong))[0] = value


def test_energy_is_that_between_two_moments() -> None:
    library = FakeNvml()
    meter = open_gpu_meter(0, library, {})
    assert meter is not None
    library.millijoules += 1500
    assert meter.stop() == (1.5, False)
    meter.start()
    assert meter.stop() == (0.0, False)


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [(0x1, False), (0x4, False), (0x8, True), (0x20, True), (0x40, True), (0x80 | 0x4, True)],
)
def test_heat_and_the_hardware_throttle_and_the_power_limit_does_not(
    reasons: int, throttled: bool
) -> None:
    library = FakeNvml()
    meter = open_gpu_meter(0, library, {})
    assert meter is not None
    library.reasons = reasons
    assert meter.stop()[1] == throttled


def test_a_gpu_that_counts_no_energy_has_none() -> None:
    meter = open_gpu_meter(0, FakeNvml(counts_energy=False), {})
    assert meter is not None
    assert meter.stop() == (None, False)


@pytest.mark.parametrize(
    ("device", "visible", "opened"),
    [(1, "", b"1"), (0, "1", b"1"), (1, "0,GPU-b", b"GPU-b")],
)
def test_the_gpu_is_the_one_that_cuda_numbers(device: int, visible: str, opened: bytes) -> None:
    library = FakeNvml()
    assert open_gpu_meter(device, library, {"CUDA_VISIBLE_DEVICES": visible}) is not None
    assert library.opened == [opened]


@pytest.mark.gpu
def test_a_real_gpu_is_measured(gpu: Device) -> None:
    meter = open_gpu_meter(gpu.index)
    assert meter is not None
    joules, _ = meter.stop()
    assert joules is None or joules >= 0


def test_without_a_gpu_there_is_no_meter() -> None:
    assert open_gpu_meter(7, FakeNvml(), {}) is None
    assert open_gpu_meter(1, FakeNvml(), {"CUDA_VISIBLE_DEVICES": "0"}) is None
    assert open_gpu_meter(0, FakeNvml(starts=False), {}) is None
