"""Doubles of the modules `tensorrt` 10.13 and 11.4, and `tensorrt_rtx` 1.7."""

from types import ModuleType
from typing import Any

from tests.doubles.cuda_runtime import FakeCuda
from tests.doubles.trt_builder import Config, IHostMemory, Network, OnnxParser, builder_class
from tests.doubles.trt_context import ExecutionContext
from tests.doubles.trt_names import VARIANTS, DataType, Dims, enumerations, nptype
from tests.doubles.trt_objects import (
    ILogger,
    IOutputAllocator,
    IProfiler,
    IProgressMonitor,
)
from tests.doubles.trt_runtime import (
    Engine,
    RtxRuntimeConfig,
    RuntimeCache,
    RuntimeConfig,
    runtime_class,
)

__all__ = ["fake_tensorrt", "tensorrt_stubs"]


def fake_tensorrt(variant: str, cuda: FakeCuda | None = None) -> Any:
    """Return a module that has what the library of a version has.

    Args:
        variant: "tensorrt-10", "tensorrt-11" or "tensorrt-rtx".
        cuda: The machine's CUDA runtime; None for a machine without a driver.
    """
    chosen = VARIANTS[variant]
    machine = FakeCuda(driver=False) if cuda is None else cuda
    names = enumerations(chosen)
    module = ModuleType(chosen.name)
    content = {
        **names,
        "__version__": chosen.version,
        "Builder": builder_class(names, chosen, machine),
        "DataType": DataType,
        "Dims": Dims,
        "IBuilderConfig": Config,
        "ICudaEngine": Engine,
        "IExecutionContext": ExecutionContext,
        "IHostMemory": IHostMemory,
        "ILogger": ILogger,
        "INetworkDefinition": Network,
        "IOutputAllocator": IOutputAllocator,
        "IProfiler": IProfiler,
        "IProgressMonitor": IProgressMonitor,
        "OnnxParser": OnnxParser,
        "Runtime": runtime_class(names, chosen, machine),
        "nptype": nptype,
    }
    content["IRuntimeConfig"] = RtxRuntimeConfig if chosen.rtx else RuntimeConfig
    if chosen.rtx:
        content["IRuntimeCache"] = RuntimeCache
    for name, value in content.items():
        setattr(module, name, value)
    return module


def tensorrt_stubs() -> Any:
    """Return what `import tensorrt` gives where only tensorrt-stubs is installed."""
    return ModuleType("tensorrt")
