"""Ask the NVIDIA driver for its GPUs, without CUDA's libraries."""

import ctypes
import sys
from typing import Final

__all__ = ["count_gpus", "describe_gpu"]

_NAME: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_CAPABILITY: Final = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_LONGEST: Final = 256


def count_gpus(name: str = _NAME) -> int:
    """Return the number of GPUs that the driver shows, 0 without a driver.

    No context is made on a GPU, and nothing is printed: ONNX Runtime prints lines of its own
    when its CUDA provider does not start.

    Args:
        name: File name of the driver's library.
    """
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def describe_gpu(index: int, name: str = _NAME) -> str | None:
    """Return the name, the compute capability and the driver of a GPU.

    Args:
        index: GPU index.
        name: File name of the driver's library.

    Returns:
        Text such as "NVIDIA L4, compute 8.9, driver for CUDA 13.0"; None without the GPU.
    """
    if not 0 <= index < count_gpus(name):
        return None
    driver = ctypes.CDLL(name)
    device, version = ctypes.c_int(), ctypes.c_int()
    title = ctypes.create_string_buffer(_LONGEST)
    if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
        return None
    driver.cuDeviceGetName(title, _LONGEST, device)
    driver.cuDriverGetVersion(ctypes.byref(version))
    parts = [ctypes.c_int(), ctypes.c_int()]
    for part, attribute in zip(parts, _CAPABILITY, strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, device)
    capability = f"{parts[0].value}.{parts[1].value}"
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    shown = title.value.decode(errors="replace")
    return f"{shown}, compute {capability}, driver for CUDA {cuda}"
