"""Energy and throttling of a GPU, from the management library that its driver brings."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["GpuMeter", "open_gpu_meter"]

LIBRARY = "libnvidia-ml.so.1"
OK = 0
# Reasons for slower clocks: slowdown and brake by the hardware, heat. The limit of power is not
# among them: a busy GPU runs at it.
SLOWED = 0x8 | 0x20 | 0x40 | 0x80
MILLIJOULES = 1e-3


class GpuMeter:
    """Measure the energy of one GPU between two moments, and see whether it was throttled."""

    def __init__(self, library: Any, handle: Any) -> None:
        """Start to measure.

        Args:
            library: NVML, initialized.
            handle: Its handle of the GPU.
        """
        self._library, self._handle = library, handle
        self.start()

    def start(self) -> None:
        """Start again."""
        self._reasons = self._throttle_reasons()
        self._energy = self._millijoules()

    def stop(self) -> tuple[float | None, bool]:
        """Return the joules since `start`, None if unknown, and whether it was throttled.

        Throttling is read at both moments.
        """
        energy = self._millijoules()
        joules = None
        if energy is not None and self._energy is not None:
            joules = (energy - self._energy) * MILLIJOULES
        reasons = self._reasons | self._throttle_reasons()
        return joules, bool(reasons & SLOWED)

    def _millijoules(self) -> int | None:
        """Return the energy since the driver was loaded; GPUs before Volta do not count it."""
        value = ctypes.c_ulonglong()
        call = self._library.nvmlDeviceGetTotalEnergyConsumption
        return value.value if call(self._handle, ctypes.byref(value)) == OK else None

    def _throttle_reasons(self) -> int:
        value = ctypes.c_ulonglong()
        call = self._library.nvmlDeviceGetCurrentClocksThrottleReasons
        return value.value if call(self._handle, ctypes.byref(value)) == OK else 0


def open_gpu_meter(
    device: int,
    library: Any = None,
    environment: Mapping[str, str] = os.environ,
) -> GpuMeter | None:
    """Return a meter of a GPU, None without a driver or such a GPU.

    Args:
        device: GPU index of CUDA.
        library: NVML; None for the driver's.
        environment: Its CUDA_VISIBLE_DEVICES numbers the GPUs of CUDA.
    """
    if library is None:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError:
            return None
    if library.nvmlInit_v2() != OK:
        return None
    names = environment.get("CUDA_VISIBLE_DEVICES", "")
    visible = [name.strip() for name in names.split(",")] if names else []
    if visible and device >= len(visible):
        return None
    name = visible[device] if visible else str(device)
    handle = ctypes.c_void_p()
    if name.isdecimal():
        found = library.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(handle))
    else:
        found = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
    return GpuMeter(library, handle) if found == OK else None
