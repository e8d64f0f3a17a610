"""Builder of the double: what it needs, what it refuses and how it says so."""

import warnings
from typing import Any

from tests.doubles.cuda_runtime import FakeCuda, Gpu
from tests.doubles.trt_names import Dims, Variant
from tests.doubles.trt_objects import Closed, ILogger, IProgressMonitor, Log
from tests.doubles.trt_parser import Network
from tests.doubles.trt_plan import Plan

__all__ = ["builder_class"]

PHASES = [("Building engine", None, 3), ("Tactic selection", "Building engine", 4)]


class CanceledError(Exception):
    """The progress monitor said no."""


class IHostMemory(bytes):
    """A plan: bytes, with the size as the library names it."""

    @property
    def nbytes(self) -> int:
        return len(self)


class OptimizationProfile:
    """Ranges by input: shapes, or the values of shape tensors."""

    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}
        self._values: dict[str, list[list[int]]] = {}
        self.extra_memory_target = 1.0

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(Dims(sizes)) for sizes in (min, opt, max)]

    def set_shape_input(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._values[input] = [[int(each) for each in values] for values in (min, opt, max)]

    def get_shape(self, input: str) -> list[Dims]:
        return [Dims(sizes) for sizes in self._shapes.get(input, [])]

    def get_shape_input(self, input: str) -> list[list[int]]:
        return self._values.get(input, [])

    def __bool__(self) -> bool:
        return all(
            low <= best <= high
            for least, opt, most in [*self._shapes.values(), *self._values.values()]
            for low, best, high in zip(least, opt, most, strict=True)
        )


class TimingCache:
    """What was timed, as bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data) or b"timings"

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data)


class BuilderConfig(Closed):
    """What can be set of every version; the rest is added for those that have it."""

    def __init__(self, log: Log, names: dict[str, Any], variant: Variant) -> None:
        self._log, self._names, self._variant = log, names, variant
        self._flags = {names["BuilderFlag"].TF32}
        self._limits: dict[Any, int] = {}
        self._profiles: list[OptimizationProfile] = []
        self._capabilities: list[Any] = []
        self._monitor: IProgressMonitor | None = None
        self._level = 3
        self._cache: TimingCache | None = None
        self.max_aux_streams = 0
        self.profiling_verbosity = names["ProfilingVerbosity"].LAYER_NAMES_ONLY
        self.tiling_optimization_level = names["TilingOptimizationLevel"].NONE
        self._hardware = names["HardwareCompatibilityLevel"].NONE
        self._open = False

    @property
    def flags(self) -> int:
        return sum(1 << int(flag) for flag in self._flags)

    def set_flag(self, flag: Any) -> None:
        self._check_flag("set_flag", flag)
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._check_flag("clear_flag", flag)
        self._flags.discard(flag)

    def get_flag(self, flag: Any) -> bool:
        self._check_flag("get_flag", flag)
        return flag in self._flags

    def _check_flag(self, call: str, flag: Any) -> None:
        if not isinstance(flag, self._names["BuilderFlag"]):
            raise TypeError(f"{call}(): incompatible function arguments.")

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, level: int) -> None:
        if level < 0:
            self._log.error(
                "IBuilderConfig::setBuilderOptimizationLevel: Error Code 3: level >= 0"
            )
        else:
            self._level = min(level, 5)

    @property
    def progress_monitor(self) -> IProgressMonitor | None:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, monitor: IProgressMonitor | None) -> None:
        if not isinstance(monitor, (IProgressMonitor, type(None))):
            raise TypeError("(): incompatible function arguments.")
        self._monitor = monitor

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._hardware

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, level: Any) -> None:
        if self._variant.rtx:
            self._log.error("setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX.")
        else:
            self._hardware = level

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if pool_size < 0 or not isinstance(pool, self._names["MemoryPoolType"]):
            raise TypeError("set_memory_pool_limit(): incompatible function arguments.")
        self._limits[pool] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._limits.get(pool, 1 << 40)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        if not profile:
            self._log.error(
                "IBuilderConfig::addOptimizationProfile: Error Code 3: API Usage Error "
                "(Parameter check failed, condition: profile->isValid(). please ensure that "
                "the optimization profiles satisfy MIN<=OPT<=MAX.)"
            )
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self._warn_of_timing_cache()
        self._cache = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        self._warn_of_timing_cache()
        return self._cache

    def _warn_of_timing_cache(self) -> None:
        if self._variant.rtx:
            text = "Timing cache operations are no-ops in TensorRT-RTX."
            warnings.warn(text, DeprecationWarning, stacklevel=3)


class RtxConfig(BuilderConfig):
    """Builds for devices that are not there."""

    @property
    def num_compute_capabilities(self) -> int:
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int) -> None:
        self._capabilities = [self._names["ComputeCapability"].NONE] * count

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        if not 0 <= index < len(self._capabilities):
            self._log.error("IBuilderConfig::setComputeCapability: Error Code 3: index")
            return False
        self._capabilities[index] = compute_capability
        return True

    def get_compute_capability(self, index: int) -> Any:
        return self._capabilities[index]


class OldConfig(BuilderConfig):
    """TensorRT 10: calibrators are still there."""

    int8_calibrator = None


class Builder(Closed):
    """Validates in the order of the library, then packs a plan."""

    def __init__(
        self, logger: ILogger, names: dict[str, Any], variant: Variant, cuda: FakeCuda | None
    ) -> None:
        self._log, self._names, self._variant, self._cuda = Log(logger), names, variant, cuda
        if not variant.rtx and self._gpu() is None:
            self._log.error("CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.max_threads = 1
        self._open = False

    def _gpu(self) -> Gpu | None:
        return None if self._cuda is None else self._cuda.current_gpu()

    def create_network(self, flags: int = 0) -> Network | None:
        kinds = self._names["NetworkDefinitionCreationFlag"]
        if flags >> (max(int(each) for each in kinds) + 1):
            self._log.error("IBuilder::createNetworkV2: Error Code 3: API Usage Error (flags)")
            return None
        typed = bool(flags >> int(kinds.STRONGLY_TYPED) & 1)
        return Network(self._log, typed or not self._variant.has_precision_flags)

    def create_builder_config(self) -> BuilderConfig:
        kind = RtxConfig if self._variant.rtx else BuilderConfig
        kind = OldConfig if self._variant.has_precision_flags else kind
        return kind(self._log, self._names, self._variant)

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(
        self, network: Network, config: BuilderConfig
    ) -> IHostMemory | None:
        problem = self._problem(network, config)
        if problem is not None:
            self._log.error(f"IBuilder::buildSerializedNetwork: {problem}")
            return None
        profiles = [{**each._shapes, **each._values} for each in config._profiles] or [{}]
        scratch = [network.scratch(each._shapes) for each in config._profiles] or [4096]
        try:
            self._select_tactics(network, config, max(scratch))
        except CanceledError:
            self._log.error(
                "IBuilder::buildSerializedNetwork: Error Code 7: BuildCanceled "
                "(Build canceled by user In next at scopedProgressReporter.cpp:92)"
            )
            return None
        except MemoryError as error:
            self._log.error(f"IBuilder::buildSerializedNetwork: {error}")
            return None
        for size in scratch:
            self._log.info(f"Max Scratch Memory: {size} bytes")
        self._log.info("Engine generation completed in 0.1 seconds.")
        return IHostMemory(self._plan(network, config, profiles, scratch).pack())

    def _problem(self, network: Network, config: BuilderConfig) -> str | None:
        usage = "Error Code 4: API Usage Error"
        if network.num_outputs == 0:
            return f"{usage} (Network must have at least one output.)"
        inputs = network._inputs
        if not config._profiles and any(
            each.is_dynamic or each.is_shape_tensor for each in inputs
        ):
            return (
                f"{usage} (Network has dynamic or shape inputs, but no optimization profile "
                "has been defined.)"
            )
        for index, profile in enumerate(config._profiles):
            for tensor in inputs:
                problem = misfit(index, profile, tensor)
                if problem is not None:
                    return f"{usage} ({problem})"
        if any(each.name == "CURRENT" for each in config._capabilities) and not self._gpu():
            return (
                "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)"
            )
        return None

    def _select_tactics(self, network: Network, config: BuilderConfig, needed: int) -> None:
        limit = config.get_memory_pool_limit(self._names["MemoryPoolType"].WORKSPACE)
        monitor = config._monitor
        started: list[str] = []
        try:
            for name, parent, steps in PHASES:
                started.append(name)
                if monitor is not None:
                    monitor.phase_start(name, parent, steps)
                    self._steps(monitor, name, steps)
            if limit < needed:
                raise MemoryError(self._too_small(network))
        finally:
            if monitor is not None:
                for name in reversed(started):
                    monitor.phase_finish(name)

    def _steps(self, monitor: IProgressMonitor, name: str, steps: int) -> None:
        for step in range(steps):
            if not monitor.step_complete(name, step):
                raise CanceledError(name)

    def _too_small(self, network: Network) -> str:
        if self._variant.rtx:
            return (
                "Error Code 1: Myelin ([tactic.cpp:1676: enumerate_tactics] Tactic Selection: "
                "no tactics to implement the operation within workspace limit. Consider "
                "increase the allowed workspace size if applicable.)"
            )
        return (
            "Error Code 10: Internal Error (Could not find any implementation for node "
            f"{network._layers[0].name}.)"
        )

    def _plan(
        self, network: Network, config: BuilderConfig, profiles: Any, scratch: list[int]
    ) -> Plan:
        flags = {flag.name for flag in config._flags}
        return Plan(
            flavour=self._variant.name,
            version=self._variant.version,
            capabilities=self._capabilities(config),
            profiles=profiles,
            shape_inputs=[each.name for each in network._inputs if each.is_shape_tensor],
            scratch=scratch,
            version_compatible="VERSION_COMPATIBLE" in flags,
            strongly_typed=network._strongly_typed,
            detailed=config.profiling_verbosity.name == "DETAILED",
            user_allocation="REQUIRE_USER_ALLOCATION" in flags,
            onnx=network._bytes,
        )

    def _capabilities(self, config: BuilderConfig) -> list[str]:
        gpu = self._gpu()
        here = [] if gpu is None else [gpu.compute_capability]
        if not self._variant.rtx:
            return [] if config._hardware.name == "AMPERE_PLUS" else here
        numbers = [int(each) for each in config._capabilities if int(each) > 1]
        return [f"{number // 10}.{number % 10}" for number in numbers] or (
            here if config._capabilities else []
        )


def misfit(index: int, profile: OptimizationProfile, tensor: Any) -> str | None:
    """Return why a profile does not do for an input, as the library words it."""
    if tensor.is_shape_tensor:
        values = profile._values.get(tensor.name)
        if values is None:
            return (
                f"Optimization profile {index} is missing values for shape input tensor "
                f"{tensor.name}."
            )
        if len(values[0]) != tensor.shape[0]:
            return (
                f"Optimization profile {index} provides number of elements in shape tensor "
                f"{tensor.name} to be {len(values[0])}. This doesn't match product of tensor "
                f"dimensions {list(tensor.shape)}."
            )
        return None
    shapes = profile._shapes.get(tensor.name)
    if shapes is None:
        lacks = f"Dynamic input tensor {tensor.name} is missing dimensions in profile {index}."
        return lacks if tensor.is_dynamic else None
    if len(shapes[0]) != len(tensor.shape):
        return f"Number of dimensions of tensor {tensor.name} and profile {index} differ."
    for axis, size in enumerate(tensor.shape):
        least, best, most = (each[axis] for each in shapes)
        if size != -1 and (least, best, most) != (size, size, size):
            return (
                f"Dimension mismatch for tensor {tensor.name} and profile {index}. At "
                f"dimension axis {axis}, profile has min={least}, opt={best}, max={most} but "
                f"tensor has {size}."
            )
    return None


def builder_class(names: dict[str, Any], variant: Variant, cuda: FakeCuda | None) -> type:
    """Return the Builder of a version, on a machine with the GPUs of `cuda` or none."""

    class VersionBuilder(Builder):
        def __init__(self, logger: ILogger) -> None:
            super().__init__(logger, names, variant, cuda)

    if variant.has_precision_flags:
        VersionBuilder.platform_has_fast_fp16 = True  # type: ignore[attr-defined]  # gone in 11
    return VersionBuilder
