"""Run a bundle's ONNX file with ONNX Runtime, on exactly the requested provider."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort
from numpy.typing import NDArray

from flowsr_runtime.backends.cores import usable_cores
from flowsr_runtime.backends.cuda_provider import CudaOptions, cudnn_version
from flowsr_runtime.backends.engine_cache import record_hashes, remove_unrecorded
from flowsr_runtime.backends.library_errors import (
    NO_THREADS,
    is_out_of_memory,
    is_out_of_threads,
    lacks_cudnn,
    one_line,
)
from flowsr_runtime.backends.onnxruntime_binding import GraphRunner, run_bound, run_features
from flowsr_runtime.backends.size_fixed import SizeFixedSessions, matching_graph
from flowsr_runtime.backends.stages import Features, StageSessions, is_whole
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.cuda.graph_cache import GraphCounters
from flowsr_runtime.errors import (
    BundleError,
    FlowsrError,
    MemoryBudgetError,
    ProviderError,
    UsageError,
)
from flowsr_runtime.installation import pip_command
from flowsr_runtime.tiling.memory import has_memory_limit, use_one_heap

__all__ = ["PROVIDERS", "OnnxRuntimeSession", "present_providers", "provider_list", "silenced"]

logger = logging.getLogger(__name__)

_OUTPUT: Final = "output"

_PICTURES: Final = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}
"""ONNX Runtime's names of the types of `picture.io` in the manifest."""

PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

_REMEDIES: Final = {
    "cpu": "reinstall onnxruntime",
    "cuda": "{gpu}, with an NVIDIA driver and CUDA",
    "tensorrt": "{gpu}, with the libraries of TensorRT 10",
    "openvino": "pip install onnxruntime-openvino instead of onnxruntime",
}

_ON_GPU: Final = ("cuda", "tensorrt")

_NO_CUDNN: Final = (
    "cuDNN 9 is missing or does not fit; install it, for example with pip install "
    "nvidia-cudnn-cu13 for CUDA 13 or nvidia-cudnn-cu12 for CUDA 12"
)

_FATAL: Final = 4
_WARNING: Final = 2
"""Severities of ONNX Runtime's loggers."""

_PLAIN: Final = CudaOptions()

_ONE_DEVICE: Final = ("cpu", "openvino")
"""Providers that this version only supports on their first device."""

_STATE: Final = ort.capi.onnxruntime_pybind11_state
_MODEL_ERRORS: Final[tuple[type[Exception], ...]] = (
    _STATE.InvalidGraph,
    _STATE.InvalidProtobuf,
    _STATE.NotImplemented,
)
_ERRORS: Final[tuple[type[Exception], ...]] = (
    MemoryError,
    RuntimeError,  # raised by an IOBinding
    ValueError,
    _STATE.EPFail,
    _STATE.Fail,
    _STATE.InvalidArgument,
    _STATE.RuntimeException,
    *_MODEL_ERRORS,
)


class OnnxRuntimeSession:
    """A `Session` on ONNX Runtime."""

    backend = "onnxruntime"
    limits: ProfileLimits | None = None

    def __init__(
        self,
        model: bytes,
        *,
        provider: str,
        device: int,
        threads: int | None,
        name: str,
        cuda_graphs: int = 0,
        engine_cache: Path | None = None,
        cuda: CudaOptions = _PLAIN,
        profile: Path | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: Content of a self-contained ONNX file whose hash was checked.
            provider: A key of `PROVIDERS`.
            device: GPU index; 0 with cpu and openvino.
            threads: CPU threads, None for the number of usable cores.
            name: Name of the model in messages.
            cuda_graphs: Largest number of CUDA graphs, 0 for none; for a model whose shapes
                follow from those of its inputs.
            engine_cache: Folder for the engines of provider tensorrt, None for no cache.
            cuda: Options of provider cuda.
            profile: Start of the file name of a profile that `end_profile` writes, None for
                none.

        Raises:
            UsageError: If there is no such provider, or it has no CUDA graphs.
            ProviderError: If the provider or the device is missing.
            BundleError: If ONNX Runtime cannot load the model.
        """
        self.provider = provider
        self.device = device
        self.library = _library(provider)
        self.tf32 = provider in _ON_GPU and cuda.uses_tf32
        _check_graphs(cuda_graphs, provider)
        cuda = replace(cuda, graphs=bool(cuda_graphs))
        self._session: ort.InferenceSession | None = _load(
            model, provider, device, _options(threads, profile), name, cuda, engine_cache
        )
        self._engine_cache = engine_cache
        self._place = ("cuda" if provider in _ON_GPU else "cpu", device)
        self._graphs: GraphRunner | None = None
        if cuda_graphs:
            self._graphs = GraphRunner(ort, self._session, _OUTPUT, self._place, cuda_graphs)
        self._size_fixed: SizeFixedSessions[OnnxRuntimeSession] | None = None
        self._stages: StageSessions[OnnxRuntimeSession] | None = None
        self._load_further: Callable[[str], OnnxRuntimeSession] | None = None
        self._further: dict[str, OnnxRuntimeSession] = {}
        self._lock = threading.Lock()
        self.types = {item.name: str(item.type) for item in self._session.get_inputs()}
        self.inputs = frozenset(self.types)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        provider: str = "cpu",
        device: int = 0,
        threads: int | None = None,
        precision: str = "fp32",
        cuda_graphs: int = 0,
        cuda: CudaOptions = _PLAIN,
        profile: Path | None = None,
    ) -> "OnnxRuntimeSession":
        """Load a bundle's model.

        A run of a whole image for whose size the bundle has a size-fixed graph is computed by
        that; see `graph_for`.

        Provider tensorrt caches its engines in the bundle, in one folder per model and version
        of ONNX Runtime, because it does not check which model an engine belongs to.

        Args:
            bundle: Bundle with the model.
            provider: A key of `PROVIDERS`.
            device: GPU index; 0 with cpu and openvino.
            threads: CPU threads, None for the number of usable cores.
            precision: "fp32", "fp16" or "int8".
            cuda_graphs: Largest number of CUDA graphs, 0 for none; with size-fixed graphs of
                each of them, and of no other run.
            cuda: Options of provider cuda; `precision` replaces theirs.
            profile: As in the constructor.

        Returns:
            The session.

        Raises:
            UsageError: If there is no such provider, or it or the model has no CUDA graphs.
            ProviderError: If the provider or the device is missing.
            BundleError: If the bundle holds no such model, or the model is damaged or differs
                from the manifest in its inputs.
        """
        _provider_name(provider)
        name = bundle.model_name(precision)
        _check_graphs(cuda_graphs, provider)
        fixed = bundle.size_fixed(precision)
        if cuda_graphs and not fixed and "geometry" in bundle.manifest.inputs:
            raise UsageError(
                "cuda_graphs needs size-fixed graphs with onnxruntime, which export-onnx "
                "--lr-size adds; backend tensorrt captures those of any bundle"
            )
        start = partial(
            cls,
            provider=provider,
            device=device,
            threads=threads,
            cuda=replace(cuda, precision=precision),
            profile=profile,
        )

        def load(name: str, graphs: int) -> OnnxRuntimeSession:
            model, path = bundle.read(name), str(bundle.path / name)
            cache = _engine_cache(bundle, name) if provider == "tensorrt" else None
            return start(model, name=path, cuda_graphs=graphs, engine_cache=cache)

        session = load(name, 0 if fixed else cuda_graphs)
        session._check_inputs(bundle, str(bundle.path / name))
        if fixed:
            session._size_fixed = SizeFixedSessions(fixed, lambda name: load(name, cuda_graphs))
        session._load_further = lambda name: load(name, 0)
        stages = bundle.stage_graphs(precision)
        if stages is not None:
            session._stages = StageSessions(stages, lambda name: load(name, 0))
        return session

    def __repr__(self) -> str:
        state = ", closed" * (self._session is None)
        return f"<OnnxRuntimeSession {self.provider}:{self.device}{state}>"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model; see `Session.run`.

        Args:
            feeds: The graph's inputs by name.

        Returns:
            Images, (B, 3, H, W).

        Raises:
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If the provider fails during the run.
        """
        session = self._opened()
        if self._size_fixed is not None:
            fixed = self._size_fixed.session_for(feeds)
            if fixed is not None:
                return fixed[0].run(fixed[1])
        with self._translated():
            if self._graphs is not None:
                return self._graphs.run(feeds)
            output: NDArray[Any] = session.run([_OUTPUT], dict(feeds), _run_options())[0]
            return output

    def run_device(self, feeds: Mapping[str, Any], out: Any = None) -> Any:
        """Run the model and leave the images on the device.

        Args:
            feeds: As for `run`. An array on the provider's device with `__dlpack__`, such as a
                PyTorch tensor, is read without a copy.
            out: Array on that device to write to, None for a new one.

        Returns:
            `out`, or an `OrtArray`, with the complete result.

        Raises:
            ShapeError: If an array is on another device, or not contiguous.
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If the provider fails during the run.
        """
        session = self._opened()
        if self._size_fixed is not None:
            fixed = self._size_fixed.session_for(feeds)
            if fixed is not None:
                return fixed[0].run_device(fixed[1], out)
        with self._translated():
            # A graph would be captured and replayed with memory of another run's output.
            options = self._graphs.without_graph() if self._graphs else _run_options()
            return run_bound(session, feeds, _OUTPUT, self._place, out, options)

    def graph_for(self, feeds: Mapping[str, Any]) -> str | None:
        """Return the file of the size-fixed graph that computes a run, None for any size."""
        graphs = () if self._size_fixed is None else self._size_fixed.graphs
        graph = matching_graph(graphs, feeds)
        return None if graph is None else graph.file

    @property
    def has_stages(self) -> bool:
        """Whether `stages_for` finds stage graphs."""
        return self._stages is not None

    @property
    def stages(self) -> "StageSessions[OnnxRuntimeSession] | None":
        """The stage graphs, None without any; together they equal `run` to the bit on a CPU."""
        return self._stages

    def stages_for(
        self, feeds: Mapping[str, NDArray[Any]]
    ) -> "StageSessions[OnnxRuntimeSession] | None":
        """Return the stage graphs for a whole image.

        Args:
            feeds: As for `run`.

        Returns:
            The graphs; None without any, for a tile, and where `run` takes a size-fixed graph.
        """
        if self._stages is None or not is_whole(feeds) or self.graph_for(feeds) is not None:
            return None
        return self._stages

    def features(self, feeds: Mapping[str, NDArray[Any]]) -> Features:
        """Run the first of two stage graphs and leave its outputs on the device.

        Args:
            feeds: The graph's inputs by name.

        Returns:
            The outputs by name.

        Raises:
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If the provider fails during the run.
        """
        session = self._opened()
        with self._translated():
            return run_features(session, feeds, self._place, _run_options())

    def outputs(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a graph with several outputs.

        Args:
            feeds: The graph's inputs by name.

        Returns:
            The outputs by name.

        Raises:
            MemoryBudgetError: If the device runs out of memory.
            ProviderError: If the provider fails during the run.
        """
        session = self._opened()
        with self._translated():
            names = [item.name for item in session.get_outputs()]
            values = session.run(names, dict(feeds), _run_options())
            return dict(zip(names, values, strict=True))

    def further(self, name: str) -> "OnnxRuntimeSession":
        """Load another graph of the bundle with the same settings, once.

        Args:
            name: ONNX file, by path in the bundle.

        Raises:
            UsageError: If this session is not of a bundle.
            BundleError: If the file is damaged.
        """
        self._opened()
        if self._load_further is None:
            raise UsageError("this session is of one graph, not of a bundle")
        with self._lock:
            if name not in self._further:
                self._further[name] = self._load_further(name)
            return self._further[name]

    @property
    def graph_counters(self) -> GraphCounters:
        """Counters of CUDA graphs, of size-fixed graphs together."""
        if self._size_fixed is not None:
            counters = (session.graph_counters for session in self._size_fixed.loaded())
            return sum(counters, GraphCounters())
        return GraphCounters() if self._graphs is None else self._graphs.counters

    def end_profile(self) -> Path:
        """Finish the profile that was begun with the session, and return its file."""
        return Path(self._opened().end_profiling())

    def close(self) -> None:
        """Free the model; the session cannot run after that."""
        if self._session is not None and self._engine_cache is not None:
            record_hashes(self._engine_cache)
        if self._size_fixed is not None:
            self._size_fixed.close()
        if self._stages is not None:
            self._stages.close()
        for session in self._further.values():
            session.close()
        self._session = self._graphs = None

    def _check_inputs(self, bundle: Bundle, path: str) -> None:
        expected = bundle.manifest.inputs
        if self.inputs != expected:
            actual, stated = sorted(self.inputs), sorted(expected)
            raise BundleError(f"{path} takes {actual}, bundle.json says {stated}")
        taken, due = self.types["input"], _PICTURES[bundle.manifest.io]
        if taken != due:
            raise BundleError(f"{path} takes images of {taken}, bundle.json says {due}")

    def _opened(self) -> ort.InferenceSession:
        if self._session is None:
            raise UsageError("the session is closed")
        return self._session

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors of the library to `FlowsrError`."""
        try:
            yield
        except FlowsrError:
            raise
        except _ERRORS as error:
            if is_out_of_memory(error):
                raise MemoryBudgetError(
                    f"{self.provider} ran out of memory; give a smaller memory_budget",
                    option="memory_budget",
                ) from error
            if self.provider in _ON_GPU and lacks_cudnn(error):
                reason = one_line(error)
                raise ProviderError(f"{self.provider} failed: {_NO_CUDNN}: {reason}") from error
            raise ProviderError(f"{self.provider} failed: {one_line(error)}") from error


def present_providers() -> list[str]:
    """Return the keys of `PROVIDERS` that the installed onnxruntime holds.

    A listed provider can still fail to start, without its libraries or its device.
    """
    available = ort.get_available_providers()
    return [name for name, provider in PROVIDERS.items() if provider in available]


@contextmanager
def silenced() -> Iterator[None]:
    """Keep the library's own lines about providers off stderr while a session is loaded.

    They do not go through the logger of the session.
    """
    ort.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)  # what it is by itself; it cannot be read


def _library(provider: str) -> str:
    """Return the version of the library, and what tells builds of one version apart."""
    commit = re.search(r"git-commit-id=(\w+)", ort.get_build_info())
    text = f"onnxruntime {ort.__version__}" + (f" ({commit[1]})" if commit else "")
    if provider not in _ON_GPU:
        return text
    # Loading cuDNN here also finds that of NVIDIA's Python package for ONNX Runtime.
    return f"{text}, cuDNN {cudnn_version() or 'missing'}"


def _check_graphs(cuda_graphs: int, provider: str) -> None:
    if cuda_graphs and provider not in _ON_GPU:
        names = " and ".join(_ON_GPU)
        given = f"got {cuda_graphs} with provider {provider}"
        raise UsageError(f"cuda_graphs is for {names}, {given}")


def _engine_cache(bundle: Bundle, name: str) -> Path | None:
    """Return the folder of the bundle for the engines of one model, None if not writable."""
    digest = bundle.manifest.files[name].sha256
    folder = bundle.path / "engines" / "ort-tensorrt" / f"{digest[:12]}-{ort.__version__}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unrecorded(folder)  # loading an engine runs its code
    except OSError as error:
        reason = error.strerror or str(error)
        logger.warning("engines are not cached: %s cannot be used: %s", folder, reason)
        return None
    return folder


def _load(
    model: bytes,
    provider: str,
    device: int,
    options: ort.SessionOptions,
    name: str,
    cuda: CudaOptions,
    engine_cache: Path | None,
) -> ort.InferenceSession:
    name_in_library = _provider_name(provider)
    if provider in _ONE_DEVICE and device != 0:
        raise UsageError(f"device must be 0 with provider {provider}, got {device}")
    failed = f"provider {provider} did not start on device {device}"
    try:
        with silenced():
            session = ort.InferenceSession(
                model,
                sess_options=options,
                providers=provider_list(provider, device, cuda, engine_cache),
                enable_fallback=0,  # the fallback prints, and silently changes the provider
            )
    except _ERRORS as error:
        if provider in _ON_GPU and lacks_cudnn(error):
            raise ProviderError(f"{failed}: {_NO_CUDNN}: {one_line(error)}") from error
        if is_out_of_threads(error):
            raise MemoryBudgetError(NO_THREADS) from error
        if is_out_of_memory(error):
            raise MemoryBudgetError(f"{name} does not fit in memory") from error
        if provider != "cpu" and not isinstance(error, _MODEL_ERRORS):
            raise ProviderError(f"{failed}: {one_line(error)}") from error
        raise BundleError(f"onnxruntime cannot load {name}: {one_line(error)}") from error
    if name_in_library not in session.get_providers():
        raise ProviderError(f"{failed}; {_remedy(provider)}")
    return session


def _remedy(provider: str) -> str:
    """Return what brings a provider."""
    return _REMEDIES[provider].format(gpu=pip_command("gpu"))


def _provider_name(provider: str) -> str:
    if provider not in PROVIDERS:
        raise UsageError(f"provider must be one of {', '.join(PROVIDERS)}, got {provider!r}")
    name = PROVIDERS[provider]
    if name not in ort.get_available_providers():
        remedy = _remedy(provider)
        raise ProviderError(
            f"provider {provider} is not in the installed onnxruntime; {remedy}"
        )
    return name


def provider_list(
    provider: str, device: int, cuda: CudaOptions = _PLAIN, engine_cache: Path | None = None
) -> list[Any]:
    """Return the providers of a session with their options, the CPU's last.

    Args:
        provider: A key of `PROVIDERS`.
        device: GPU index.
        cuda: Options of provider cuda, which also runs what TensorRT leaves.
        engine_cache: Folder for the engines of provider tensorrt, None for no cache.
    """
    on_cuda = (PROVIDERS["cuda"], cuda.of_cuda(device))
    on_tensorrt = (PROVIDERS["tensorrt"], cuda.of_tensorrt(device, engine_cache))
    accelerated: dict[str, list[Any]] = {
        "cpu": [],
        "cuda": [on_cuda],
        "tensorrt": [on_tensorrt, on_cuda],
        "openvino": [(PROVIDERS["openvino"], {})],
    }
    return [*accelerated[provider], PROVIDERS["cpu"]]


def _run_options() -> ort.RunOptions | None:
    """Return options that free the arena after each run where memory is limited.

    It would keep what a run that failed took of the address space, and what smaller tiles, the
    picture and its encoder then lack.
    """
    if not has_memory_limit():
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _options(threads: int | None, profile: Path | None) -> ort.SessionOptions:
    if has_memory_limit():
        use_one_heap()
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Memory patterns reserve one block per tile shape, in a worse layout than the arena's:
    # 590 MB against 343 MB for 9 convolutions and a GEMM at 172x172, at the same speed (CPU).
    options.enable_mem_pattern = False
    options.log_severity_level = _FATAL  # errors are raised, and reported once
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options
