"""A session: one loaded model on one backend, and how to open it."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.errors import BackendError, UsageError

__all__ = ["BACKENDS", "Session", "SessionSettings", "open_session"]

BACKENDS = {
    "onnxruntime": "flowsr-lp[cpu]",
    "tensorrt": "flowsr-lp[tensorrt]",
    "tensorrt_rtx": "flowsr-lp[tensorrt-rtx]",
}
"""Backends and the extra that installs each."""

_LIBRARIES: Final = {"onnxruntime": "onnxruntime", "cuda": "cuda-bindings"}
"""What a backend's module imports, and what to call it in a message."""

_WORKERS: Final = 4
"""Runs at once on a GPU; the memory of each is taken when a thread needs it."""


class Session(Protocol):
    """A loaded model; `run` may be called from several threads at once."""

    @property
    def backend(self) -> str:
        """Name of the inference library."""

    @property
    def provider(self) -> str:
        """What the library computes with, such as "cpu"."""

    @property
    def device(self) -> int:
        """Index of the device."""

    @property
    def limits(self) -> ProfileLimits | None:
        """Sizes that it takes, None for every size."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model.

        Args:
            feeds: The graph's inputs by name: `input` (B, 3, h, w) float32 or uint8, and
                `geometry` (10,) int64 and latents (B, D, rows, columns) where the graph has
                them.

        Returns:
            Pictures, (B, 3, H, W), of the type of `input`; float32 is unclamped.

        Raises:
            MemoryBudgetError: If the device's memory does not suffice.
        """

    def close(self) -> None:
        """Free the model; the session cannot run after that."""


@dataclass(frozen=True)
class SessionSettings:
    """On what a bundle's model runs; `open` makes the session.

    Attributes:
        backend: A key of `BACKENDS`.
        provider: What ONNX Runtime computes with: "cpu", "cuda", "tensorrt" or "openvino";
            None for "cpu". TensorRT has "cuda" alone.
        device: Index of the GPU; 0 with cpu and openvino.
        threads: CPU threads, None for the number of usable cores; ONNX Runtime alone.
        precision: "fp32", "fp16", "bf16" or "int8".
        workers: Most runs at once, None for four; TensorRT alone.
        cuda_graphs: Most captured CUDA graphs, of each worker with TensorRT; 0 for none. They
            help where the same sizes come again and again. ONNX Runtime captures those of
            fixed-scale bundles alone.
    """

    backend: str = "onnxruntime"
    provider: str | None = None
    device: int = 0
    threads: int | None = None
    precision: str = "fp32"
    workers: int | None = None
    cuda_graphs: int = 0

    def check(self) -> None:
        """Check what can be checked without a library.

        Raises:
            UsageError: If a setting is not one of these, or the backend has no such thing.
        """
        if self.backend not in BACKENDS:
            raise UsageError(
                f"backend must be one of {', '.join(BACKENDS)}, got {self.backend!r}"
            )
        _check_count("device", self.device, least=0)
        _check_count("cuda_graphs", self.cuda_graphs, least=0)
        for name, value in (("threads", self.threads), ("workers", self.workers)):
            if value is not None:
                _check_count(name, value, least=1)
        if self.backend != "onnxruntime":
            if self.provider not in (None, "cuda"):
                raise UsageError(
                    f"provider must be cuda with backend {self.backend}, got {self.provider!r}"
                )
            if self.threads is not None:
                raise UsageError(
                    f"threads is for onnxruntime, got {self.threads} with backend "
                    f"{self.backend}"
                )
        elif self.workers is not None:
            raise UsageError(
                f"workers is for tensorrt, got {self.workers}; onnxruntime runs every thread "
                "at once"
            )

    def open(self, bundle: Bundle) -> Session:
        """Load a bundle's model.

        Args:
            bundle: Bundle with the model; TensorRT needs an engine of it too.

        Returns:
            The session.

        Raises:
            UsageError: If a setting is not one of these, or the backend has no such thing.
            BackendError: If the backend's library is not installed.
            ProviderError: If the provider or the device is missing.
            BundleError: If the bundle holds no such model or engine, or it is damaged.
        """
        self.check()
        try:
            if self.backend == "onnxruntime":
                return _open_onnxruntime(bundle, self)
            return _open_tensorrt(bundle, self)
        except ImportError as error:
            if isinstance(error, BackendError):
                raise
            raise _missing(self.backend, error) from error


def open_session(
    bundle: Bundle,
    *,
    backend: str = "onnxruntime",
    provider: str | None = None,
    device: int = 0,
    threads: int | None = None,
    precision: str = "fp32",
    workers: int | None = None,
    cuda_graphs: int = 0,
) -> Session:
    """Load a bundle's model on a backend.

    Args:
        bundle: Bundle with the model; TensorRT needs an engine of it too.
        backend: This and the others as in `SessionSettings`.
        provider: What ONNX Runtime computes with.
        device: Index of the GPU.
        threads: CPU threads.
        precision: Which of the bundle's graphs.
        workers: Most runs at once.
        cuda_graphs: Most captured CUDA graphs.

    Returns:
        The session.

    Raises:
        FlowsrError: As `SessionSettings.open`.
    """
    settings = SessionSettings(
        backend, provider, device, threads, precision, workers, cuda_graphs
    )
    return settings.open(bundle)


def _open_onnxruntime(bundle: Bundle, settings: SessionSettings) -> Session:
    from flowsr_runtime.backends.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession.open(
        bundle,
        provider=settings.provider or "cpu",
        device=settings.device,
        threads=settings.threads,
        precision=settings.precision,
        cuda_graphs=settings.cuda_graphs,
    )


def _open_tensorrt(bundle: Bundle, settings: SessionSettings) -> Session:
    from flowsr_runtime.backends.tensorrt_session import TensorrtSession

    return TensorrtSession.open(
        bundle,
        backend=settings.backend,
        device=settings.device,
        precision=settings.precision,
        workers=_WORKERS if settings.workers is None else settings.workers,
        graphs=settings.cuda_graphs,
    )


def _missing(backend: str, error: ImportError) -> BackendError:
    """Return what to say of a library that cannot be imported."""
    library = _LIBRARIES.get((error.name or "").split(".")[0])
    if library is None:
        return BackendError(f"{backend} cannot be loaded: {error}")
    return BackendError(f"{library} is not installed; pip install '{BACKENDS[backend]}'")


def _check_count(name: str, value: object, *, least: int) -> None:
    try:
        count = operator.index(value)  # type: ignore[arg-type]  # its TypeError is the check
    except TypeError as error:
        raise UsageError(f"{name} must be a whole number, got {value!r}") from error
    if count < least:
        raise UsageError(f"{name} must be at least {least}, got {count}")
