"""The driver's GPUs are counted without CUDA's libraries."""

import ctypes
from typing import Any

import pytest

from flowsr_runtime.cuda.driver import count_gpus, describe_gpu


class Driver:
    """A driver that shows some GPUs, or fails."""

    def __init__(self, gpus: int, error: int = 0) -> None:
        self.gpus, self.error = gpus, error

    def cuInit(self, flags: int) -> int:  # noqa: N802  # the name is the driver's
        return self.error

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = b"NVIDIA L4"
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13010
        return 0

    def cuDeviceGetAttribute(self, part: Any, attribute: int, device: Any) -> int:  # noqa: N802
        part._obj.value = {75: 8, 76: 9}[attribute]
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802  # the name is the driver's
        count._obj.value = self.gpus
        return 0


def test_without_a_driver_there_is_no_gpu() -> None:
    assert count_gpus("libno-such-driver.so.1") == 0


@pytest.mark.parametrize(("driver", "count"), [(Driver(2), 2), (Driver(2, 100), 0)])
def test_the_gpus_of_the_driver_are_counted(
    driver: Driver, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert count_gpus() == count


def test_a_gpu_is_described_by_name_capability_and_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(2))
    assert describe_gpu(1) == "NVIDIA L4, compute 8.9, driver for CUDA 13.1"
    assert describe_gpu(2) is None
