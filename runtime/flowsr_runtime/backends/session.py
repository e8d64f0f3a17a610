"""Open a session: one loaded model on one backend."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.profile_limits import ProfileLimits
from flowsr_runtime.errors import BackendError, UsageError
from flowsr_runtime.installation import pip_command

__all__ = ["BACKENDS", "Session", "SessionSettings", "open_session"]

BACKENDS = {
    "onnxruntime": "cpu",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
}
"""Backends and the extra that installs each."""

_LIBRARIES: Final = {"onnxruntime": "onnxruntime", "cuda": "cuda-bindings"}
"""Modules that backends import, and their package names for messages."""

_WORKERS: Final = 4
"""Default number of concurrent runs on a GPU; each allocates memory when first used."""


class Session(Protocol):
    """A loaded model; `run` may be called from several threads at once."""

    @property
    def backend(self) -> str:
        """Name of the inference library."""

    @property
    def provider(self) -> str:
        """Provider of the library, such as "cpu"."""

    @property
    def device(self) -> int:
        """Index of the device."""

    @property
    def limits(self) -> ProfileLimits | None:
        """Sizes that the session takes, None for all sizes."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model.

        Args:
            feeds: The graph's inputs by name: `input` (B, 3, h, w) float32 or uint8, and
                `geometry` (10,) int64 and latents (B, D, rows, columns) if the graph has them.

        Returns:
            Images, (B, 3, H, W), of the type of `input`; float32 is unclamped.

        Raises:
            MemoryBudgetError: If the device runs out of memory.
        """

    def close(self) -> None:
        """Free the model; the session cannot run after that."""


@dataclass(frozen=True)
class SessionSettings:
    """Settings of a session; `open` opens it.

    Attributes:
        backend: A key of `BACKENDS`.
        provider: Provider of ONNX Runtime: "cpu", "cuda", "tensorrt" or "openvino"; None for
            "cpu". TensorRT only has "cuda".
        device: GPU index; 0 with cpu and openvino.
        threads: CPU threads, None for the number of usable cores; ONNX Runtime only.
        precision: "fp32", "fp16", "bf16" or "int8".
        workers: Largest number of concurrent runs, None for four; TensorRT only.
        cuda_graphs: Largest number of CUDA graphs, per worker with TensorRT; 0 for none. They
            help if the same sizes recur. ONNX Runtime only captures graphs of fixed-scale
            bundles.
    """

    backend: str = "onnxruntime"
    provider: str | None = None
    device: int = 0
    threads: int | None = None
    precision: str = "fp32"
    workers: int | None = None
    cuda_graphs: int = 0

    def check(self) -> None:
        """Check the settings, as far as possible without a library.

        Raises:
            UsageError: If a setting is invalid, or the backend does not have it.
        """
        if self.backend not in BACKENDS:
            names = ", ".join(BACKENDS)
            raise UsageError(f"backend must be one of {names}, got {self.backend!r}")
        _check_count("device", self.device, least=0)
        _check_count("cuda_graphs", self.cuda_graphs, least=0)
        for name, value in (("threads", self.threads), ("workers", self.workers)):
            if value is not None:
                _check_count(name, value, least=1)
        if self.backend != "onnxruntime":
            if self.provider not in (None, "cuda"):
                raise UsageError(
                    f"provider must be cuda with backend {self.backend}, got {self.provider!r}",
                    option="provider",
                )
            if self.threads is not None:
                raise UsageError(f"threads is for onnxruntime, got {self.threads}")
        elif self.workers is not None:
            raise UsageError(f"workers is for tensorrt, got {self.workers}")

    def open(self, bundle: Bundle) -> Session:
        """Load a bundle's model.

        Args:
            bundle: Bundle with the model; TensorRT also needs an engine of it.

        Returns:
            The session.

        Raises:
            UsageError: If a setting is invalid, or the backend does not have it.
            BackendError: If the backend's library is not installed.
            ProviderError: If the provider or the device is missing.
            BundleError: If the bundle is damaged, or has no such model or engine.
        """
        self.check()
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
                )
            from flowsr_runtime.backends.tensorrt_session import TensorrtSession

            return TensorrtSession.open(
                bundle,
                backend=self.backend,
                device=self.device,
                precision=self.precision,
                workers=_WORKERS if self.workers is None else self.workers,
                graphs=self.cuda_graphs,
            )
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
        bundle: Bundle with the model; TensorRT also needs an engine of it.
        backend: As for `SessionSettings`.
        provider: As for `SessionSettings`.
        device: As for `SessionSettings`.
        threads: As for `SessionSettings`.
        precision: As for `SessionSettings`.
        workers: As for `SessionSettings`.
        cuda_graphs: As for `SessionSettings`.

    Returns:
        The session.

    Raises:
        FlowsrError: As `SessionSettings.open`.
    """
    settings = SessionSettings(
        backend, provider, device, threads, precision, workers, cuda_graphs
    )
    return settings.open(bundle)


def _missing(backend: str, error: ImportError) -> BackendError:
    """Return the error for a library that cannot be imported."""
    library = _LIBRARIES.get((error.name or "").split(".")[0])
    if library is None:
        return BackendError(f"{backend} cannot be loaded: {error}")
    return BackendError(f"{library} is not installed; {pip_command(BACKENDS[backend])}")


def _check_count(name: str, value: object, *, least: int) -> None:
    try:
        count = operator.index(value)  # type: ignore[arg-type]  # its TypeError is the check
    except TypeError as error:
        message = f"{name} must be a whole number, got {value!r}"
        raise UsageError(message, option=name) from error
    if count < least:
        raise UsageError(f"{name} must be at least {least}, got {count}", option=name)
