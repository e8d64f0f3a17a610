"""Runtime, engine and inspector of the double: what loads, and what is refused."""

import json
from typing import Any

import onnx

from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_builder import Tensor
from tests.doubles.trt_context import ExecutionContext
from tests.doubles.trt_names import Dims, Variant
from tests.doubles.trt_objects import Closed, ILogger, Log
from tests.doubles.trt_plan import Plan

__all__ = ["Engine", "RtxRuntimeConfig", "RuntimeCache", "RuntimeConfig", "runtime_class"]

FAILED = "IRuntime::deserializeCudaEngine: Error Code 1: "


class Runtime(Closed):
    """Loads the plans that the library of this version would load on this device."""

    def __init__(
        self, logger: ILogger, names: dict[str, Any], variant: Variant, cuda: FakeCuda
    ) -> None:
        self._log, self._names, self._variant, self._cuda = Log(logger), names, variant, cuda
        self.engine_host_code_allowed = False
        self.max_threads = 1
        self._open = False

    def deserialize_cuda_engine(self, serialized_engine: Any) -> "Engine | None":
        gpu = self._cuda.current_gpu()
        if gpu is None:
            self._log.error(
                f"{FAILED}Cuda Runtime (In ScopedCudaStream at cudaResources.cpp:25 (cudaError "
                "35: CUDA driver version is insufficient for CUDA runtime version))"
            )
            return None
        plan = Plan.unpack(serialized_engine)
        problem = self._problem(plan, gpu)
        if plan is None or problem is not None:
            self._log.error(f"{FAILED}{problem}")
            return None
        return Engine(plan, self._log, self._names, self._variant, self._cuda)

    def _problem(self, plan: Plan | None, gpu: Gpu) -> str | None:
        if plan is None or plan.flavour != self._variant.name:
            return (
                "Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed. "
                "Magic tag does not match)"
            )
        if plan.version != self._variant.version and not plan.version_compatible:
            return (
                "Serialization (Serialization assertion stdVersionRead == "
                "kSERIALIZATION_VERSION failed. Version tag does not match. Note: Current "
                f"Version: {self._variant.version}, Serialized Engine Version: {plan.version})"
            )
        if plan.version_compatible and not self.engine_host_code_allowed:
            return "Internal Error (Engine contains host code, which is not allowed)"
        wanted, here = plan.capabilities, gpu.compute_capability
        if (wanted and here not in wanted) or (not wanted and gpu.major < 8):
            return (
                "Internal Error (The engine plan file is generated on an incompatible device, "
                f"expecting compute {', '.join(wanted) or '8.0'} got compute {here}, please "
                "rebuild.)"
            )
        if self._cuda.used + len(plan.onnx) > gpu.memory:
            return f"OutOfMemory (Requested size was {len(plan.onnx)} bytes.)"
        return None


class Engine(Closed):
    """The tensors of a plan by name."""

    def __init__(
        self, plan: Plan, log: Log, names: dict[str, Any], variant: Variant, cuda: FakeCuda
    ) -> None:
        model = onnx.load_from_string(plan.onnx)
        stored = {each.name for each in model.graph.initializer}
        ins = [Tensor(each) for each in model.graph.input if each.name not in stored]
        outs = [Tensor(each) for each in model.graph.output]
        self._plan, self._log, self._names = plan, log, names
        self._variant, self._cuda, self._model = variant, cuda, model
        self._tensors = {each.name: each for each in [*ins, *outs]}
        self._inputs = [each.name for each in ins]
        self._context_options: list[Any] = []
        self.name = "Unnamed Network 0"
        self._open = False

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._model.graph.node)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan.profiles)

    @property
    def num_aux_streams(self) -> int:
        return 0

    @property
    def device_memory_size_v2(self) -> int:
        return max(self._plan.scratch)

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return self._plan.scratch[profile_index]

    def get_tensor_name(self, index: int) -> str:
        return [*self._tensors][index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._names["TensorIOMode"]
        if name not in self._tensors:
            return modes.NONE
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._tensors[name].dtype

    def get_tensor_shape(self, name: str) -> Dims:
        return self._tensors[name].shape

    def get_tensor_location(self, name: str) -> Any:
        places = self._names["TensorLocation"]
        return places.HOST if name in self._plan.shape_inputs else places.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self._plan.shape_inputs

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        ranges = self._plan.profiles[profile_index].get(name)
        if ranges is None or name in self._plan.shape_inputs:
            return [self._tensors[name].shape] * 3
        return [Dims(sizes) for sizes in ranges]

    def get_tensor_profile_values(self, name: int, profile_index: str) -> list[list[int]]:
        # The bindings swap the two types in their text; the call takes them in this order.
        return self._plan.profiles[int(profile_index)][str(name)]

    def create_execution_context(self, strategy: Any = None) -> ExecutionContext | None:
        config = strategy if isinstance(strategy, RuntimeConfig) else RuntimeConfig(self)
        if isinstance(strategy, self._names["ExecutionContextAllocationStrategy"]):
            config.set_execution_context_allocation_strategy(strategy)
        managed = config.get_execution_context_allocation_strategy().name == "USER_MANAGED"
        scratch = None
        if not managed:
            _, scratch = self._cuda.cudaMalloc(self.device_memory_size_v2)
            if scratch is None:
                self._log.error(
                    "ICudaEngine::createExecutionContext: Error Code 2: OutOfMemory (Requested "
                    f"size was {self.device_memory_size_v2} bytes.)"
                )
                return None
        return ExecutionContext(self, config, scratch)

    def create_runtime_config(self) -> "RuntimeConfig":
        return RtxRuntimeConfig(self) if self._variant.rtx else RuntimeConfig(self)

    def create_engine_inspector(self) -> "Inspector":
        return Inspector(self)


class RuntimeConfig(Closed):
    """Configuration of the memory of contexts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._strategy = engine._names["ExecutionContextAllocationStrategy"].STATIC
        self._runtime_cache: RuntimeCache | None = None
        self._open = False

    def get_execution_context_allocation_strategy(self) -> Any:
        return self._strategy

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy


class RtxRuntimeConfig(RuntimeConfig):
    """RTX: compiled kernels can be kept, and it captures graphs itself."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._open = True
        self.cuda_graph_strategy = engine._names["CudaGraphStrategy"].DISABLED
        strategies = engine._names["DynamicShapesKernelSpecializationStrategy"]
        self.dynamic_shapes_kernel_specialization_strategy = strategies.LAZY
        self._open = False

    def create_runtime_cache(self) -> "RuntimeCache":
        return RuntimeCache(self._engine)

    def set_runtime_cache(self, cache: "RuntimeCache | None" = None) -> bool:
        self._runtime_cache = cache
        return True

    def get_runtime_cache(self) -> "RuntimeCache | None":
        return self._runtime_cache


class RuntimeCache:
    """Kernels that were compiled on this device with this version."""

    def __init__(self, engine: Engine) -> None:
        gpu = engine._cuda.current_gpu()
        self._environment = f"{engine._variant.version} {gpu}"
        self.kernels: set[str] = set()

    def serialize(self) -> bytes:
        return json.dumps([self._environment, sorted(self.kernels)]).encode()

    def deserialize(self, blob: Any) -> bool:
        environment, kernels = json.loads(bytes(blob))
        if environment != self._environment:
            return False
        self.kernels = set(kernels)
        return True

    def reset(self) -> None:
        self.kernels.clear()


class Inspector:
    """Tells of the layers in the JSON of its version."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        engine = self._engine
        names = [each.name or each.output[0] for each in engine._model.graph.node]
        layers: list[Any] = [*names]
        if engine._plan.detailed:
            layers = [self._layer(each) for each in self._typed().node]
        return json.dumps({"Layers": layers, engine._variant.io_key: [*engine._tensors]})

    def _typed(self) -> Any:
        return onnx.shape_inference.infer_shapes(self._engine._model).graph

    def _layer(self, node: Any) -> dict[str, Any]:
        graph = self._typed()
        values = [*graph.input, *graph.output, *graph.value_info]
        types = {each.name: each.type.tensor_type.elem_type for each in values}
        types |= {each.name: each.data_type for each in graph.initializer}
        half = {onnx.TensorProto.FLOAT16: "FP16", onnx.TensorProto.BFLOAT16: "BF16"}
        typed = self._engine._plan.strongly_typed

        def describe(name: str) -> dict[str, Any]:
            word = half.get(types.get(name, 1), "FP32") if typed else "FP32"
            return {"Name": name, "Format/Datatype": f"Row major linear {word} format"}

        return {
            "Name": node.name or node.output[0],
            "LayerType": node.op_type,
            "Inputs": [describe(name) for name in node.input if name],
            "Outputs": [describe(name) for name in node.output],
            "Metadata": f"[ONNX Layer: {node.name}]",
        }


def runtime_class(names: dict[str, Any], variant: Variant, cuda: FakeCuda) -> type:
    """Return the Runtime of a version, on a machine with the GPUs of `cuda`."""

    class VersionRuntime(Runtime):
        def __init__(self, logger: ILogger) -> None:
            super().__init__(logger, names, variant, cuda)

    return VersionRuntime
