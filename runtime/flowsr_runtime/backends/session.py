"""Open a session: one loaded model on one backend, named or chosen for this machine."""

import logging
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.backends.cuda_provider import HALF, SEARCHES, CudaOptions
from flowsr_runtime.backends.engines.candidates import INDUCTOR, engine_candidates
from flowsr_runtime.backends.self_test import SKIPPED, SelfTest, self_test
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.cuda.driver import count_gpus
from flowsr_runtime.errors import (
    BackendError,
    BundleError,
    FlowsrError,
    IntegrityError,
    ParityError,
    ProviderError,
    UsageError,
)
from flowsr_runtime.installation import pip_command

__all__ = [
    "AUTO",
    "BACKENDS",
    "Choice",
    "SessionSettings",
    "open_session",
    "preferred_precision",
]

logger = logging.getLogger(__name__)

AUTO: Final = "auto"
"""Backend or precision that is chosen from the bundle and this machine."""

MOST_THREADS: Final = 1024
"""Largest number of threads or workers; more would take the memory of the machine."""

BACKENDS = {
    "onnxruntime": "cpu",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "inductor": "inductor",
    "openvino": "openvino",
}
"""Backends and the extra that installs each."""

_PREFERRED: Final = {
    "gpu": ("fp16", "bf16", "fp32", "int8", "fp8"),
    "cpu": ("fp32", "fp16", "int8", "bf16", "fp8"),
}
"""Precisions of a bundle with several graphs, the one that `AUTO` takes first."""

_ON_HOST: Final = ("cpu", "openvino")
"""Providers that run on the processor."""

_ON_ENGINES: Final = ("tensorrt", "tensorrt_rtx")
"""Backends that run engines on a GPU."""

_PASSED_OVER: Final = (BackendError, ProviderError, BundleError, ParityError)
"""Errors after which `AUTO` tries the next candidate."""

_LIBRARIES: Final = {
    "onnxruntime": "onnxruntime",
    "cuda": "cuda-bindings",
    "openvino": "openvino",
    "torch": "torch",
}
"""Modules that backends import, and their package names for messages."""

_WORKERS: Final = 4
"""Default number of concurrent runs on a GPU; each allocates memory when first used."""


@dataclass(frozen=True)
class Choice:
    """How a bundle is run.

    Attributes:
        settings: Settings that name backend, provider, device index and precision.
        passed_over: Reasons by candidate why better ones were not taken.
        self_test: Whether the golden pair of the bundle was met, and the difference.
    """

    settings: "SessionSettings"
    passed_over: Mapping[str, str] = field(default_factory=dict)
    self_test: SelfTest = SKIPPED

    def __str__(self) -> str:
        return _label(self.settings)

    def as_dict(self) -> dict[str, object]:
        """Return the choice as JSON values."""
        one = self.settings
        return {
            "backend": one.backend,
            "provider": one.provider,
            "device": one.device,
            "precision": one.precision,
            "passed_over": dict(self.passed_over),
            "self_test": str(self.self_test),
        }


@dataclass(frozen=True)
class SessionSettings:
    """Settings of a session; `open` opens it.

    Attributes:
        backend: A key of `BACKENDS`, or "auto": an engine of the bundle that fits the device,
            else ONNX Runtime on the best provider that starts. OpenVINO is never chosen.
        provider: Provider of ONNX Runtime: "cpu", "cuda", "tensorrt" or "openvino"; None for
            "cpu" with backend onnxruntime. TensorRT only has "cuda", inductor "cuda" and
            "cpu", openvino "cpu". A named provider makes backend auto take ONNX Runtime.
        device: "cpu", "cuda", "cuda:1" or a GPU index. An index is 0 with cpu and openvino.
        threads: CPU threads, None for the number of usable cores; not for TensorRT.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8", or "auto": the bundle's one graph;
            of several fp16 on a GPU and fp32 on a CPU. With backend openvino bf16 is the fp32
            graph with bfloat16 arithmetic, on CPUs that have it.
        workers: Largest number of concurrent runs, None for four; TensorRT and inductor only.
        cuda_graphs: Largest number of CUDA graphs, per worker with TensorRT; 0 for none. They
            help if the same sizes recur. ONNX Runtime only captures size-fixed graphs.
        tf32: Whether provider cuda computes float32 graphs in TF32: faster, and off by 1e-3 and
            more. Half-precision graphs use it in any case.
        convolution_search: Way in which provider cuda chooses convolutions, "heuristic" or
            "exhaustive", which searches again at every new size.
        gpu_memory: Bytes that provider cuda may take, None for no limit.
        self_test: Whether the bundle's golden pair is run before anything else; a verdict that
            passed is kept in the user's cache, and a miss refuses the session.
    """

    backend: str = AUTO
    provider: str | None = None
    device: int | str = 0
    threads: int | None = None
    precision: str = AUTO
    workers: int | None = None
    cuda_graphs: int = 0
    self_test: bool = True
    tf32: bool = False
    convolution_search: str = "heuristic"
    gpu_memory: int | None = None

    @property
    def graph_precision(self) -> str:
        """Precision of the graph that runs: OpenVINO's bf16 is a hint for the fp32 graph."""
        hinted = (self.backend, self.precision) == ("openvino", "bf16")
        return "fp32" if hinted else self.precision

    @property
    def index(self) -> int:
        """Index of the GPU, 0 on a CPU."""
        return _parse_device(self.device)[1]

    def check(self) -> None:
        """Check the settings, as far as possible without a library.

        Raises:
            UsageError: If a setting is invalid, or the backend does not have it.
        """
        if self.backend not in (AUTO, *BACKENDS):
            names = ", ".join((AUTO, *BACKENDS))
            raise UsageError(f"backend must be one of {names}, got {self.backend!r}")
        self._check_device()
        if self.convolution_search not in SEARCHES:
            message = f"convolution_search must be one of {', '.join(SEARCHES)}"
            raise UsageError(f"{message}, got {self.convolution_search!r}")
        on_cuda = self.backend in (AUTO, "onnxruntime") and self.provider not in _ON_HOST
        if (self.tf32 or self.convolution_search != SEARCHES[0]) and not on_cuda:
            name = "tf32" if self.tf32 else "convolution_search"
            user = self.provider or self.backend
            raise UsageError(f"{name} is for provider cuda, got {user}", option=name)
        _check_count("cuda_graphs", self.cuda_graphs, least=0)
        for name, value in (("threads", self.threads), ("workers", self.workers)):
            if value is not None:
                _check_count(name, value, least=1)
                if value > MOST_THREADS:
                    raise UsageError(f"{name} must be at most {MOST_THREADS}, got {value}")
        if self.backend == INDUCTOR and self.provider not in (None, "cpu", "cuda"):
            message = f"provider must be cpu or cuda with inductor, got {self.provider!r}"
            raise UsageError(message, option="provider")
        due = {"openvino": "cpu", **dict.fromkeys(_ON_ENGINES, "cuda")}.get(self.backend)
        if due is not None and self.provider not in (None, due):
            raise UsageError(
                f"provider must be {due} with backend {self.backend}, got {self.provider!r}",
                option="provider",
            )
        if self.backend in _ON_ENGINES and self.threads is not None:
            message = f"threads is for onnxruntime and openvino, got {self.threads}"
            raise UsageError(message)
        if self.backend in ("onnxruntime", "openvino") and self.workers is not None:
            raise UsageError(f"workers is for tensorrt, got {self.workers}")
        if self.backend == "openvino" and self.cuda_graphs:
            raise UsageError(f"cuda_graphs is for GPUs, got {self.cuda_graphs} with openvino")

    def candidates(self, bundle: Bundle) -> list["SessionSettings"]:
        """Return the ways to run a bundle that the settings allow, the best first.

        A GPU comes before the CPU, and there an engine before ONNX Runtime. No library of an
        engine is imported, and a candidate can still fail to start.

        Args:
            bundle: Bundle with the model.

        Returns:
            Settings that name backend, provider, device index and precision, at least one.

        Raises:
            UsageError: If a setting is invalid, or no backend has all of them.
            BundleError: If the bundle holds no model.
        """
        self.check()
        graphs = self._on_onnxruntime(bundle)
        found = self._on_engines(bundle, on_cpu=False)
        found += [one for one in graphs if one.provider not in _ON_HOST]
        found += self._on_engines(bundle, on_cpu=True)
        found += [one for one in graphs if one.provider in _ON_HOST]
        if self.backend == "openvino":
            precision = self.precision
            if precision == AUTO:
                precision = preferred_precision(bundle, on_gpu=False)
            found.append(self._named("openvino", "cpu", precision))
        faults = [_fault(one) for one in found]
        valid = [one for one, fault in zip(found, faults, strict=True) if fault is None]
        if not valid:
            raise next(fault for fault in faults if fault is not None)
        return valid

    def choose(self, bundle: Bundle) -> tuple[Session, Choice]:
        """Load a bundle's model with the first candidate that starts and passes the self-test.

        Args:
            bundle: Bundle with the model; TensorRT also needs an engine of it.

        Returns:
            The session, and what was chosen.

        Raises:
            FlowsrError: As `open`, if no candidate starts and passes the self-test.
        """
        errors: dict[str, FlowsrError] = {}
        candidates = self.candidates(bundle)
        for one in candidates:
            try:
                if len(candidates) > 1:
                    _check_gpu(one)
                session, tested = one._tested(bundle)
            except IntegrityError:  # never hidden by another way to run the bundle
                raise
            except _PASSED_OVER as error:
                errors[_label(one)] = error
                continue
            passed_over = {name: str(error) for name, error in errors.items()}
            choice = Choice(one, passed_over, tested)
            logger.info("%s runs on %s, %s", bundle.path, choice, tested)
            return session, choice
        alike = len({one.backend for one in candidates}) == 1
        raise [*errors.values()][0 if alike else -1]

    def open(self, bundle: Bundle) -> Session:
        """Load a bundle's model, and test it with the bundle's golden pair.

        Args:
            bundle: Bundle with the model; TensorRT also needs an engine of it.

        Returns:
            The session.

        Raises:
            UsageError: If a setting is invalid, or the backend does not have it.
            BackendError: If the backend's library is not installed.
            ProviderError: If the provider or the device is missing.
            BundleError: If the bundle is damaged, or has no such model or engine.
            ParityError: If the golden pair is missed.
        """
        return self.choose(bundle)[0]

    def start(self, bundle: Bundle) -> Session:
        """Load a bundle's model without a self-test.

        Args:
            bundle: Bundle with the model; TensorRT also needs an engine of it.

        Returns:
            The session.

        Raises:
            FlowsrError: As `open`, except for a `ParityError`.
        """
        self.check()
        unnamed = self.backend == INDUCTOR and self.provider is None
        if AUTO in (self.backend, self.precision) or isinstance(self.device, str) or unnamed:
            return replace(self, self_test=False).choose(bundle)[0]
        try:
            if self.backend == "onnxruntime":
                from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession

                return OnnxRuntimeSession.open(
                    bundle,
                    provider=self.provider or "cpu",
                    device=self.device,
                    threads=self.threads,
                    precision=self.precision,
                    cuda_graphs=self.cuda_graphs,
                    cuda=CudaOptions(
                        tf32=self.tf32, search=self.convolution_search, memory=self.gpu_memory
                    ),
                )
            if self.backend == "openvino":
                from flowsr_runtime.backends.openvino_session import OpenvinoSession

                return OpenvinoSession.open(
                    bundle, threads=self.threads, precision=self.precision
                )
            workers = _WORKERS if self.workers is None else self.workers
            if self.backend == INDUCTOR:
                from flowsr_runtime.backends.engines.inductor_session import InductorSession

                return InductorSession.open(
                    bundle,
                    device="cpu" if self.provider == "cpu" else f"cuda:{self.device}",
                    precision=self.precision,
                    threads=self.threads,
                    workers=workers,
                    graphs=self.cuda_graphs,
                )
            from flowsr_runtime.backends.engines.tensorrt_session import TensorrtSession

            return TensorrtSession.open(
                bundle,
                backend=self.backend,
                device=self.device,
                precision=self.precision,
                workers=workers,
                graphs=self.cuda_graphs,
            )
        except ImportError as error:
            if isinstance(error, BackendError):
                raise
            raise _missing(self.backend, error) from error

    def _tested(self, bundle: Bundle) -> tuple[Session, SelfTest]:
        """Load a bundle's model with named settings, and test it."""
        session = self.start(bundle)
        if not self.self_test:
            return session, SKIPPED
        try:
            return session, self_test(
                bundle,
                session,
                precision=self.precision,
                graph=self.graph_precision,
                options="tf32" if self._loosened_by_tf32 else "",
            )
        except BaseException:
            session.close()
            raise

    @property
    def _loosened_by_tf32(self) -> bool:
        """Whether a float32 graph is computed in TF32."""
        on_cuda = self.backend == "onnxruntime" and self.provider in ("cuda", "tensorrt")
        return self.tf32 and on_cuda and self.precision not in HALF

    def _check_device(self) -> None:
        place, _ = _parse_device(self.device)
        needs_gpu = self.backend in _ON_ENGINES
        if place == "cpu" and (needs_gpu or self.provider not in (None, *_ON_HOST)):
            user = f"backend {self.backend}" if needs_gpu else f"provider {self.provider}"
            message = f"device must be a GPU with {user}, got {self.device!r}"
            raise UsageError(message, option="device")
        on_host = self.provider in _ON_HOST or self.backend == "openvino"
        if place == "cuda" and on_host:
            user = f"provider {self.provider}" if self.provider else f"backend {self.backend}"
            message = f"device must be cpu with {user}, got {self.device!r}"
            raise UsageError(message, option="device")
        if self.backend == "openvino" and self.index != 0:
            message = f"device must be 0 with backend openvino, got {self.device}"
            raise UsageError(message, option="device")

    def _on_engines(self, bundle: Bundle, *, on_cpu: bool) -> list["SessionSettings"]:
        """Return a candidate for each library and precision of engines for a GPU or the CPU."""
        place, index = _parse_device(self.device)
        named = None if self.backend == AUTO else self.backend
        if named not in (None, *_ON_ENGINES, INDUCTOR) or (on_cpu and named in _ON_ENGINES):
            return []
        provider = "cpu" if on_cpu else "cuda"
        wanted = (self.provider or provider, place or provider)
        elsewhere = wanted != (provider, provider) or (on_cpu and index > 0)
        if elsewhere or (self.provider is not None and named is None):
            return []
        # A GPU is meant; the session says what is missing there.
        on_gpu = index > 0 or provider in (self.provider, place)
        pairs = engine_candidates(
            bundle,
            named,
            None if self.precision == AUTO else self.precision,
            order=_PREFERRED["cpu" if on_cpu else "gpu"],
            preferred=lambda: preferred_precision(bundle, on_gpu=not on_cpu),
            on_cpu=on_cpu,
            required=named != INDUCTOR or on_cpu or on_gpu,
        )
        return [self._named(flavour, provider, precision) for flavour, precision in pairs]

    def _on_onnxruntime(self, bundle: Bundle) -> list["SessionSettings"]:
        """Return a candidate for each provider of ONNX Runtime that may be taken."""
        if self.backend not in (AUTO, "onnxruntime"):
            return []
        place, index = _parse_device(self.device)
        if self.provider is not None or place is not None:
            providers: Sequence[str] = (self.provider or place or "cpu",)
        elif self.backend == "onnxruntime":
            providers = ("cpu",)
        elif index > 0:
            providers = ("cuda",)
        else:
            providers = ("cuda", "cpu") if "cuda" in _present_providers() else ("cpu",)
        found = []
        for provider in providers:
            precision = self.precision
            if precision == AUTO:
                precision = preferred_precision(bundle, on_gpu=provider not in _ON_HOST)
            found.append(self._named("onnxruntime", provider, precision))
        return found

    def _named(self, backend: str, provider: str, precision: str) -> "SessionSettings":
        return replace(
            self, backend=backend, provider=provider, precision=precision, device=self.index
        )


def preferred_precision(bundle: Bundle, *, on_gpu: bool) -> str:
    """Return the precision of a bundle's graph that `AUTO` runs.

    Args:
        bundle: Bundle with the model.
        on_gpu: Whether it runs on a GPU.

    Returns:
        The bundle's only precision; of several fp16 on a GPU and fp32 on a CPU.

    Raises:
        BundleError: If the bundle holds no model.
    """
    present = bundle.precisions
    order = _PREFERRED["gpu" if on_gpu else "cpu"]
    best = next((name for name in order if name in present), None)
    if best is None:
        raise BundleError(f"{bundle.path} holds no model at all")
    return best


def open_session(
    bundle: Bundle,
    *,
    backend: str = AUTO,
    provider: str | None = None,
    device: int | str = 0,
    threads: int | None = None,
    precision: str = AUTO,
    workers: int | None = None,
    cuda_graphs: int = 0,
    self_test: bool = True,
    tf32: bool = False,
    convolution_search: str = "heuristic",
) -> Session:
    """Load a bundle's model on a backend.

    Args:
        bundle: Bundle with the model; TensorRT also needs an engine of it.
        backend: As for `SessionSettings`.
        provider: As for `SessionSettings`.
        device: As for `SessionSettings`.
        threads: As for `SessionSettings`.
        precision: As for `SessionSettings`.
        workers: As for `SessionSettings`.
        cuda_graphs: As for `SessionSettings`.
        self_test: As for `SessionSettings`.
        tf32: As for `SessionSettings`.
        convolution_search: As for `SessionSettings`.

    Returns:
        The session.

    Raises:
        FlowsrError: As `SessionSettings.open`.
    """
    settings = SessionSettings(
        backend,
        provider,
        device,
        threads,
        precision,
        workers,
        cuda_graphs,
        self_test,
        tf32,
        convolution_search,
    )
    return settings.open(bundle)


def _missing(backend: str, error: ImportError) -> BackendError:
    """Return the error for a library that cannot be imported."""
    library = _LIBRARIES.get((error.name or "").split(".")[0])
    if library is None:
        return BackendError(f"{backend} cannot be loaded: {error}")
    return BackendError(f"{library} is not installed; {pip_command(BACKENDS[backend])}")


def _check_gpu(settings: SessionSettings) -> None:
    """Refuse ONNX Runtime on a GPU where there is none, before it prints lines of its own."""
    needs_gpu = settings.backend == "onnxruntime" and settings.provider not in _ON_HOST
    if needs_gpu and count_gpus() == 0:
        raise ProviderError("the NVIDIA driver shows no GPU, or is not installed")


def _present_providers() -> list[str]:
    """Return the providers of the installed onnxruntime, none without it."""
    try:
        from flowsr_runtime.backends.onnxruntime_session import present_providers
    except ImportError:
        return []
    return present_providers()


def _label(settings: SessionSettings) -> str:
    """Return backend, provider, device and precision in a few words."""
    at = "" if settings.provider in _ON_HOST else f":{settings.index}"
    return f"{settings.backend} {settings.provider or 'cpu'}{at}, {settings.precision}"


def _fault(settings: SessionSettings) -> UsageError | None:
    """Return the error of settings that their backend does not have."""
    try:
        settings.check()
    except UsageError as error:
        return error
    return None


def _parse_device(device: int | str) -> tuple[str | None, int]:
    """Return "cpu" or "cuda", None for an index alone, and the index."""
    if not isinstance(device, str):
        _check_count("device", device, least=0)
        return None, operator.index(device)
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if match is None:
        message = f"device must be cpu, cuda, cuda:N or a GPU index, got {device!r}"
        raise UsageError(message, option="device")
    return device.partition(":")[0], int(match[1] or 0)


def _check_count(name: str, value: object, *, least: int) -> None:
    try:
        count = operator.index(value)  # type: ignore[arg-type]  # its TypeError is the check
    except TypeError as error:
        message = f"{name} must be a whole number, got {value!r}"
        raise UsageError(message, option=name) from error
    if count < least:
        raise UsageError(f"{name} must be at least {least}, got {count}", option=name)
