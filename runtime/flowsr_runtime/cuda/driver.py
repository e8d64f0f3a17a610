"""Ask the NVIDIA driver for its GPUs, without CUDA's libraries."""

import ctypes
import sys
from typing import Final

__all__ = ["count_gpus"]

_NAME: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


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
