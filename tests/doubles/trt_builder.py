"""Builder double: records the settings of a build and packs a plan for the runtime double.

`tensorrt_rtx` builds without a GPU, so tests of refusals, logs and compute capabilities use the
library itself. This double adds TensorRT 10 and 11, whose builders need a GPU.
"""

from math import prod
from types import SimpleNamespace
from typing import Any

import onnx

from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_names import DataType, Dims, Variant
from tests.doubles.trt_objects import ILogger, IProgressMonitor, Log
from tests.doubles.trt_plan import Plan

__all__ = ["Config", "IHostMemory", "Network", "OnnxParser", "Tensor", "builder_class"]

TYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.FLOAT16: DataType.HALF,
    onnx.TensorProto.BFLOAT16: DataType.BF16,
    onnx.TensorProto.INT8: DataType.INT8,
    onnx.TensorProto.UINT8: DataType.UINT8,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
    onnx.TensorProto.BOOL: DataType.BOOL,
}
STEPS = 3


class IHostMemory(bytes):
    """Plan bytes with the `nbytes` of the library's class."""

    @property
    def nbytes(self) -> int:
        return len(self)


class Tensor:
    """Input or output of a network; free dimensions are -1."""

    def __init__(self, value: Any) -> None:
        tensor = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        self.name: str = value.name
        self.dtype = TYPES[tensor.elem_type]
        self.shape = Dims(sizes)

    @property
    def is_shape_tensor(self) -> bool:
        is_integer = self.dtype in (DataType.INT32, DataType.INT64)
        return is_integer and len(self.shape) <= 1 and -1 not in self.shape


class Network:
    """Network filled by the parser."""

    def __init__(self, strongly_typed: bool) -> None:
        self.strongly_typed = strongly_typed
        self.content = b""
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class OnnxParser:
    """Parser that accepts every valid ONNX file."""

    def __init__(self, network: Network, logger: ILogger) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        graph = onnx.load_from_string(bytes(model)).graph
        stored = {constant.name for constant in graph.initializer}
        self._network.content = bytes(model)
        self._network.inputs = [Tensor(v) for v in graph.input if v.name not in stored]
        self._network.outputs = [Tensor(value) for value in graph.output]
        return True


class OptimizationProfile:
    """Ranges by input: shapes, or the values of a shape tensor."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[list[int]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.ranges[input] = [list(map(int, bound)) for bound in (min, opt, max)]

    set_shape_input = set_shape


class Config(SimpleNamespace):
    """Builder settings; attributes that the double does not interpret are kept as set."""

    max_aux_streams = -1
    tiling_optimization_level: Any = None

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__(progress_monitor=None)
        self.profiling_verbosity = names["ProfilingVerbosity"].LAYER_NAMES_ONLY
        self.hardware_compatibility_level = names["HardwareCompatibilityLevel"].NONE
        self.flags = {names["BuilderFlag"].TF32}
        self.limits: dict[Any, int] = {}
        self.profiles: list[OptimizationProfile] = []

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.limits[pool] = pool_size

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> IHostMemory:
        return IHostMemory(serialized_timing_cache or b"timings")

    def set_timing_cache(self, cache: IHostMemory, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return cache != b"of another GPU"

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self.cache)


class Builder:
    """Builder of one version; TensorRT 10 and 11 need a GPU."""

    def __init__(
        self, logger: ILogger, names: dict[str, Any], variant: Variant, cuda: FakeCuda
    ) -> None:
        self._log, self._names, self._variant, self._cuda = Log(logger), names, variant, cuda
        if not variant.rtx and self._gpu() is None:
            self._log.error("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def _gpu(self) -> Gpu | None:
        return self._cuda.current_gpu()

    def create_network(self, flags: int = 0) -> Network:
        typed = bool(flags >> int(self._names["NetworkDefinitionCreationFlag"].STRONGLY_TYPED))
        return Network(typed or not self._variant.has_precision_flags)

    def create_builder_config(self) -> Config:
        return Config(self._names)

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: Config) -> IHostMemory | None:
        profiles = [profile.ranges for profile in config.profiles] or [{}]
        scratch = [
            4096 + 64 * prod(ranges.get("input", [[], [], [0]])[2]) for ranges in profiles
        ]
        for size in scratch:
            self._log.info(f"Max Scratch Memory: {size} bytes")
        if not self._run_phase(config.progress_monitor):
            self._log.error("IBuilder::buildSerializedNetwork: Build canceled by user")
            return None
        limit = config.limits.get(self._names["MemoryPoolType"].WORKSPACE, 1 << 40)
        if limit < max(scratch):
            self._log.error("Could not find any implementation for node {ForeignNode[a...b]}.)")
            return None
        flags = {flag.name for flag in config.flags}
        plan = Plan(
            flavour=self._variant.name,
            version=self._variant.version,
            capabilities=self._capabilities(config),
            profiles=profiles,
            shape_inputs=[tensor.name for tensor in network.inputs if tensor.is_shape_tensor],
            scratch=scratch,
            version_compatible="VERSION_COMPATIBLE" in flags,
            strongly_typed=network.strongly_typed,
            detailed=config.profiling_verbosity.name == "DETAILED",
            onnx=network.content,
        )
        return IHostMemory(plan.pack())

    def _run_phase(self, monitor: IProgressMonitor | None) -> bool:
        """Report one phase; return whether the monitor let it finish."""
        if monitor is None:
            return True
        monitor.phase_start("Building engine", None, STEPS)
        try:
            return all(monitor.step_complete("Building engine", step) for step in range(STEPS))
        finally:
            monitor.phase_finish("Building engine")

    def _capabilities(self, config: Config) -> list[str]:
        gpu = self._gpu()
        if gpu is None or config.hardware_compatibility_level.name == "AMPERE_PLUS":
            return []
        return [gpu.compute_capability]


def builder_class(names: dict[str, Any], variant: Variant, cuda: FakeCuda) -> type:
    """Return the Builder of a version, on a machine with the GPUs of `cuda`."""

    class VersionBuilder(Builder):
        def __init__(self, logger: ILogger) -> None:
            super().__init__(logger, names, variant, cuda)

    return VersionBuilder
