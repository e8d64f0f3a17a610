"""Options of ONNX Runtime's CUDA and TensorRT providers, and the cuDNN that they need."""

import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["HALF", "SEARCHES", "CudaOptions", "cudnn_version"]

HALF: Final = ("fp16", "bf16")
"""Precisions of half-precision graphs."""

SEARCHES: Final = ("heuristic", "exhaustive")
"""Ways in which cuDNN chooses the algorithm of a convolution. Exhaustive searches again at
every new shape: 24 s instead of 9 s for 40 sizes on an H100, at the same speed afterwards."""


@dataclass(frozen=True)
class CudaOptions:
    """Options of the CUDA provider.

    Attributes:
        precision: Precision of the graph. Half-precision graphs use TF32 in their float32
            islands, which cost 10 ms of 28 without it on an H100, at the same 58.3 dB.
        tf32: Whether float32 graphs use TF32 too; their results are then off by 1e-3 and more.
        search: One of `SEARCHES`.
        memory: Bytes that the provider's arena may take, None for no limit.
        graphs: Whether CUDA graphs are captured.
    """

    precision: str = "fp32"
    tf32: bool = False
    search: str = "heuristic"
    memory: int | None = None
    graphs: bool = False

    @property
    def uses_tf32(self) -> bool:
        """Whether products of float32 values are computed in TF32."""
        return self.tf32 or self.precision in HALF

    def of_cuda(self, device: int) -> dict[str, str]:
        """Return the options of provider cuda on a device."""
        options = {
            "device_id": str(device),
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "1" if self.uses_tf32 else "0",
            "cudnn_conv_algo_search": self.search.upper(),
        }
        if self.precision == "fp16":  # 17.9 against 19.6 ms on an H100
            options["prefer_nhwc"] = "1"
        if self.memory is not None:
            options["gpu_mem_limit"] = str(self.memory)
        if self.graphs:
            options["enable_cuda_graph"] = "1"
        return options

    def of_tensorrt(self, device: int, engine_cache: Path | None) -> dict[str, str]:
        """Return the options of provider tensorrt on a device.

        Args:
            device: GPU index.
            engine_cache: Folder for its engines, None for no cache.
        """
        options = {"device_id": str(device)}
        if self.graphs:
            options["trt_cuda_graph_enable"] = "1"
        if engine_cache is not None:
            for name in ("engine", "timing"):
                options[f"trt_{name}_cache_enable"] = "1"
                options[f"trt_{name}_cache_path"] = str(engine_cache)
        return options


def cudnn_version() -> str | None:
    """Return the version of the cuDNN that ONNX Runtime would load, None without one.

    The library is searched where the system's loader looks and in NVIDIA's Python packages.
    """
    for name in _cudnn_names():
        try:
            number = int(ctypes.CDLL(name).cudnnGetVersion())
        except (OSError, AttributeError):
            continue
        return f"{number // 10000}.{number % 10000 // 100}.{number % 100}"
    return None


def _cudnn_names() -> Iterator[str]:
    yield "cudnn64_9.dll" if sys.platform == "win32" else "libcudnn.so.9"
    try:
        spec = importlib.util.find_spec("nvidia.cudnn")
    except ImportError:
        return
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield from map(str, sorted(Path(folder).glob("lib/libcudnn.so.9*")))
        yield from map(str, sorted(Path(folder).glob("bin/cudnn64_9.dll")))
