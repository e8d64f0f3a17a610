"""From an ONNX file to a TensorRT plan, with either flavour of the library."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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

__all__ = ["Built", "Settings", "Tensor", "build_plan", "check_settings"]

TICK_SECONDS = 0.2  # between two looks at a build that runs
HARDWARE = {
    "none": "NONE",
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}


@dataclass(frozen=True)
class Settings:
    """How to build.

    Attributes:
        workspace: Bytes that one kernel may take beside the activations, None for no limit.
        optimization_level: From 0, the fastest build, to 5, the slowest.
        tf32: Let float32 products round their operands to 10 bits of mantissa. That is what
            TensorRT does unless it is told not to, and what the float32 islands of a half
            precision graph are there to avoid.
        version_compatible: Let later versions of the same major load it (tensorrt).
        hardware_compatibility: A key of `HARDWARE` (tensorrt).
        compute_capabilities: Devices to build for without having them (tensorrt_rtx).
        timing_cache: File of measured kernels, read and written (tensorrt).
    """

    workspace: int | None = None
    optimization_level: int = 3
    tf32: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None

    def options(self) -> dict[str, Option]:
        """Return what changes the plan, for its key; the target is a field of its own."""
        return {
            "workspace": "unlimited" if self.workspace is None else self.workspace,
            "optimization_level": self.optimization_level,
            "tf32": self.tf32,
            "version_compatible": self.version_compatible,
            "hardware_compatibility": self.hardware_compatibility,
            "profiling_verbosity": "detailed",
        }


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine.

    Attributes:
        name: Its name.
        is_input: Whether it is an input.
        dtype: Type as the library names it, such as "FLOAT".
        shape: -1 where it varies.
    """

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Built:
    """What a build gave.

    Attributes:
        plan: The engine, as trtexec and C++ load it.
        seconds: From the first call to the plan.
        scratch: Activation memory of each profile, bytes; empty if the log does not say.
        tensors: Inputs, then outputs.
        layers: The builder's list of layers as text; empty if it gave none.
        warnings: What it warned of.
    """

    plan: bytes
    seconds: float
    scratch: tuple[int, ...]
    tensors: tuple[Tensor, ...]
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
    """Compile a graph.

    Ctrl-C ends it at the library's next step; nothing is left behind then.

    Args:
        library: The builder's.
        model: A self-contained ONNX file.
        profiles: Ranges by input; at least one where a shape or value varies.
        settings: How to build.
        device: The GPU to build on, None for none.
        log: File for everything that the library says.
        estimates: Activation memory of each profile as estimated, bytes; errors quote it.
        report: Called about five times a second with the share that is done and the phase.

    Raises:
        UsageError: If a setting is not one of the flavour's, or a profile does not fit.
        LintError: If the library cannot import the graph.
        MemoryBudgetError: If a kernel needs more memory than it may take.
        ProviderError: If there is no GPU and the library needs one.
        OutputError: If the log or the timing cache cannot be written.
        FlowsrError: If the library fails otherwise.
    """
    check_settings(library, settings)
    situation = BuildContext(str(library), settings.workspace, tuple(estimates), str(log or ""))
    began = time.monotonic()
    with BuildLog(log) as said:
        logger = said.logger(library.module)
        try:
            builder = library.module.Builder(logger)
        except (TypeError, RuntimeError) as error:  # the bindings' word for a null pointer
            raise error_from_log(
                [*said.errors, str(error)], said.warnings, situation
            ) from error
        network = _parsed(library, builder, logger, model)
        config = _configured(library, builder, settings)
        for profile in profiles:
            if config.add_optimization_profile(_profile(builder, network, profile)) < 0:
                raise error_from_log(said.errors, said.warnings, situation)
        plan = _compiled(library, builder, network, config, report, device)
        if plan is None:
            raise error_from_log(said.errors, said.warnings, situation)
        _keep_timings(config, settings.timing_cache)
        return Built(
            plan=bytes(plan),
            seconds=time.monotonic() - began,
            scratch=tuple(said.scratch),
            tensors=_tensors(network),
            layers=said.layers,
            warnings=tuple(said.warnings),
        )


def check_settings(library: Library, settings: Settings) -> None:
    """Refuse what a flavour does not have.

    Raises:
        UsageError: If a setting is not one of the flavour's.
    """
    if not library.is_rtx:
        return
    if settings.version_compatible:
        raise UsageError(
            "--version-compatible is for --flavour tensorrt: tensorrt-rtx comes without the "
            "lean runtime that such an engine holds"
        )
    if settings.timing_cache is not None:
        raise UsageError(
            "--timing-cache is for --flavour tensorrt: tensorrt-rtx times nothing when it "
            "builds, kernels are compiled where the engine runs"
        )


def _parsed(library: Library, builder: Any, logger: Any, model: bytes) -> Any:
    trt = library.module
    # Ignored by 11 and RTX, where every network is typed as its file says.
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
    if library.is_rtx:
        known, wanted = library.capabilities(), settings.compute_capabilities
        config.num_compute_capabilities = len(wanted)
        for index, each in enumerate(wanted):
            config.set_compute_capability(known[each], index)
    if settings.timing_cache is not None:
        there = settings.timing_cache.is_file()
        data = settings.timing_cache.read_bytes() if there else b""
        cache = config.create_timing_cache(data)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise UsageError(
                f"timing cache {settings.timing_cache} is of another GPU or version than "
                f"{library}; give another file"
            )
    return config


def _profile(builder: Any, network: Any, profile: Profile) -> Any:
    """Translate ranges: shapes, or the values of an input whose values decide shapes."""
    translated = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        each = profile.get(tensor.name)
        if each is None:
            continue
        if tensor.is_shape_tensor:
            translated.set_shape_input(tensor.name, each.min, each.opt, each.max)
        elif -1 in tuple(tensor.shape):
            translated.set_shape(tensor.name, each.min, each.opt, each.max)
        # Else its shape is fixed, and its values decide no shape: SRFlow's geometry.
    return translated


def _compiled(
    library: Library,
    builder: Any,
    network: Any,
    config: Any,
    report: Callable[[float, str], None],
    device: Device | None,
) -> Any:
    """Build in a thread, so that this one can hear Ctrl-C and say how far it is."""
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
    """Let Ctrl-C cancel the build and raise nothing meanwhile, at whatever line it comes."""
    heard = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or heard in (signal.SIG_IGN, None):
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: progress.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _keep_timings(config: Any, path: Path | None) -> None:
    if path is None:
        return
    try:
        replace_file(path, bytes(config.get_timing_cache().serialize()))
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"timing cache {path} cannot be written: {reason}") from error


def _problems(parser: Any) -> list[dict[str, str]]:
    """What the parser says of each error; what its version does not say stays empty."""
    problems = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        said = {
            name: str(getattr(error, call)()) if hasattr(error, call) else ""
            for name, call in (
                ("node", "node_name"),
                ("op", "node_operator"),
                ("reason", "desc"),
            )
        }
        problems.append(said)
    return problems


def _tensors(network: Any) -> tuple[Tensor, ...]:
    inputs = [(network.get_input(i), True) for i in range(network.num_inputs)]
    outputs = [(network.get_output(i), False) for i in range(network.num_outputs)]
    return tuple(
        Tensor(tensor.name, is_input, tensor.dtype.name, tuple(tensor.shape))
        for tensor, is_input in (*inputs, *outputs)
    )
