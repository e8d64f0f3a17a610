"""Build a TensorRT plan from an ONNX file, with TensorRT or TensorRT for RTX."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowsr_export.engine.build_log import BuildLog, BuildProgress
from flowsr_export.engine.diagnosis import BuildContext, error_from_log, explain_parse
from flowsr_export.engine.library import Library
from flowsr_runtime.atomic import replace_file
from flowsr_runtime.bundle.engine_store import Option, Profile
from flowsr_runtime.errors import OutputError, UsageError

if TYPE_CHECKING:
    from flowsr_runtime.cuda.device import Device

__all__ = ["Built", "Settings", "build_plan", "check_settings"]

TICK_SECONDS = 0.2  # between two progress reports
HARDWARE = {
    "none": "NONE",
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
TILING = ("none", "fast", "moderate", "full")


@dataclass(frozen=True)
class Settings:
    """Settings of the builder.

    Attributes:
        workspace: Scratch memory limit of one kernel in bytes, None for no limit.
        optimization_level: Level from 0, the fastest build, to 5, the slowest.
        tf32: Let float32 products round their operands to a 10-bit mantissa. TensorRT does so
            by default, but the float32 islands of a half-precision graph need full precision.
        version_compatible: Let later versions of the same major release load it (tensorrt).
        hardware_compatibility: Key of `HARDWARE` (tensorrt).
        compute_capabilities: GPUs to build for, without having them (tensorrt_rtx).
        timing_cache: Timing cache file, read and updated (tensorrt).
        max_aux_streams: Most streams on which layers run beside the main one, None for the
            library's choice.
        tiling_optimization_level: Key of `TILING`: how long the builder searches for layers
            that pass their results through the cache in tiles; None for the library's choice.
    """

    workspace: int | None = None
    optimization_level: int = 3
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    max_aux_streams: int | None = None
    tiling_optimization_level: str | None = None

    def options(self) -> dict[str, Option]:
        """Return the settings that change the plan, for its key; the target is separate.

        A later setting is in the key only if it is given, so that older engines are found.
        """
        later: dict[str, Option | None] = {
            "max_aux_streams": self.max_aux_streams,
            "tiling_optimization_level": self.tiling_optimization_level,
        }
        return {
            "workspace": "unlimited" if self.workspace is None else self.workspace,
            "optimization_level": self.optimization_level,
            "tf32": self.tf32,
            "version_compatible": self.version_compatible,
            "hardware_compatibility": self.hardware_compatibility,
            "profiling_verbosity": "detailed",
            **{name: value for name, value in later.items() if value is not None},
        }


@dataclass(frozen=True)
class Built:
    """Output of a build.

    Attributes:
        plan: Serialized engine, which trtexec and C++ load too.
        seconds: Build time.
        scratch: Activation memory of each profile in bytes; empty if the log lacks it.
        tensors: Inputs, then outputs, as JSON: "name", "input", "dtype" such as "FLOAT" and
            "shape" with -1 for a dynamic side.
        layers: The builder's list of layers as text; empty if it gave none.
        warnings: Warnings of the builder.
    """

    plan: bytes
    seconds: float
    scratch: tuple[int, ...]
    tensors: tuple[dict[str, Any], ...]
    layers: str
    warnings: tuple[str, ...]


def build_plan(
    library: Library,
    model: bytes,
    profiles: Sequence[Profile],
    settings: Settings,
    *,
    device: Device | None = None,
    log: Path | None = None,
    estimates: Sequence[int] = (),
    report: Callable[[float, str], None] = lambda share, phase: None,
) -> Built:
    """Build a plan from a graph.

    Ctrl-C cancels the build at the library's next step and leaves no files.

    Args:
        library: TensorRT library.
        model: Self-contained ONNX file.
        profiles: Ranges by input, at least one profile for dynamic shapes or values.
        settings: Settings of the builder.
        device: GPU to build on, None for none.
        log: File for the builder's log.
        estimates: Estimated activation memory of each profile in bytes, quoted in errors.
        report: Called about five times a second with the completed share and the phase.

    Raises:
        UsageError: If the library lacks a setting, or a profile does not fit the graph.
        LintError: If the library cannot import the graph.
        MemoryBudgetError: If a kernel exceeds the memory limit.
        ProviderError: If there is no GPU and the library needs one.
        OutputError: If the log or the timing cache cannot be written.
        FlowsrError: If the library fails otherwise.
    """
    check_settings(library, settings)
    context = BuildContext(str(library), settings.workspace, tuple(estimates))
    began = time.monotonic()
    with BuildLog(log) as messages:
        context = replace(context, log=str(messages.path or ""))
        logger = messages.logger(library.module)
        try:
            builder = library.module.Builder(logger)
        except (TypeError, RuntimeError) as error:  # how the bindings report a null pointer
            errors = [*messages.errors, str(error)]
            raise error_from_log(errors, messages.warnings, context) from error
        network = _parsed(library, builder, logger, model)
        config = _configured(library, builder, settings)
        for profile in profiles:
            if config.add_optimization_profile(_profile(builder, network, profile)) < 0:
                raise error_from_log(messages.errors, messages.warnings, context)
        plan = _compiled(library, builder, network, config, report, device)
        if plan is None:
            raise error_from_log(messages.errors, messages.warnings, context)
        _keep_timings(config, settings.timing_cache)
        return Built(
            plan=bytes(plan),
            seconds=time.monotonic() - began,
            scratch=tuple(messages.scratch),
            tensors=_tensors(network),
            layers=messages.layers,
            warnings=tuple(messages.warnings),
        )


def check_settings(library: Library, settings: Settings) -> None:
    """Check that a library has the settings.

    Raises:
        UsageError: If a setting is for the other library.
    """
    if library.is_rtx and settings.version_compatible:
        message = "version_compatible is for tensorrt: tensorrt_rtx has no lean runtime"
        raise UsageError(message, option="version_compatible")
    if library.is_rtx and settings.timing_cache is not None:
        message = "timing_cache is for tensorrt: tensorrt_rtx measures no kernels"
        raise UsageError(message, option="timing_cache")
    config = getattr(library.module, "IBuilderConfig", None)
    for name in ("max_aux_streams", "tiling_optimization_level"):
        if getattr(settings, name) is not None and not hasattr(config, name):
            raise UsageError(f"{name} is not in {library}", option=name)


def _parsed(library: Library, builder: Any, logger: Any, model: bytes) -> Any:
    trt = library.module
    # TensorRT 11 and RTX ignore the flag: their networks always use the types of the file.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise explain_parse(_problems(parser), str(library))
    return network


def _configured(library: Library, builder: Any, settings: Settings) -> Any:
    trt = library.module
    config = builder.create_builder_config()
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatibility != "none":
        level = HARDWARE[settings.hardware_compatibility]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if settings.max_aux_streams is not None:
        config.max_aux_streams = settings.max_aux_streams
    if settings.tiling_optimization_level is not None:
        level = settings.tiling_optimization_level.upper()
        config.tiling_optimization_level = getattr(trt.TilingOptimizationLevel, level)
    if library.is_rtx:
        constants = library.capabilities()
        config.num_compute_capabilities = len(settings.compute_capabilities)
        for index, capability in enumerate(settings.compute_capabilities):
            config.set_compute_capability(constants[capability], index)
    if settings.timing_cache is not None:
        exists = settings.timing_cache.is_file()
        data = settings.timing_cache.read_bytes() if exists else b""
        cache = config.create_timing_cache(data)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            rule = f"must be of this GPU and {library}, got {settings.timing_cache}"
            raise UsageError(f"timing_cache {rule}", option="timing_cache")
    return config


def _profile(builder: Any, network: Any, profile: Profile) -> Any:
    """Make a profile from ranges of shapes, or of values for a shape tensor."""
    translated = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        bounds = profile.get(tensor.name)
        if bounds is None:
            continue
        if tensor.is_shape_tensor:
            translated.set_shape_input(tensor.name, bounds.min, bounds.opt, bounds.max)
        elif -1 in tuple(tensor.shape):
            translated.set_shape(tensor.name, bounds.min, bounds.opt, bounds.max)
        # Otherwise neither shape nor values need a range: SRFlow's geometry.
    return translated


def _compiled(
    library: Library,
    builder: Any,
    network: Any,
    config: Any,
    report: Callable[[float, str], None],
    device: Device | None,
) -> Any:
    """Build in a thread; this thread reports progress and handles Ctrl-C."""
    progress = BuildProgress()
    config.progress_monitor = progress.monitor(library.module)
    results: list[Any] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            if device is not None:
                device.use()  # CUDA keeps the device per thread
            results.append(builder.build_serialized_network(network, config))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=run, name="tensorrt-build")
    with _cancelling(progress):
        thread.start()
        try:
            while not ended.wait(TICK_SECONDS):
                phase = "cancelling" if progress.canceled else progress.phase
                report(progress.share, phase)
        except BaseException:
            progress.cancel()
            raise
        finally:
            thread.join()
    if progress.canceled:
        raise KeyboardInterrupt
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def _cancelling(progress: BuildProgress) -> Iterator[None]:
    """Let Ctrl-C cancel the build instead of raising in the middle of a line."""
    handler = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or handler in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: progress.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _keep_timings(config: Any, path: Path | None) -> None:
    if path is None:
        return
    try:
        replace_file(path, bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"timing cache {path} cannot be written: {reason}") from error


def _problems(parser: Any) -> list[dict[str, str]]:
    """Return node, operator and reason of each parser error, empty where unavailable."""
    calls = {"node": "node_name", "op": "node_operator", "reason": "desc"}
    return [
        {
            name: str(getattr(error, call)()) if hasattr(error, call) else ""
            for name, call in calls.items()
        }
        for error in map(parser.get_error, range(parser.num_errors))
    ]


def _tensors(network: Any) -> tuple[dict[str, Any], ...]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(
        {"name": t.name, "input": t in inputs, "dtype": t.dtype.name, "shape": [*t.shape]}
        for t in (*inputs, *outputs)
    )
