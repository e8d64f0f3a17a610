"""Run a bundle's ONNX file with ONNX Runtime on exactly the provider that was asked for."""

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from flowsr_runtime.bundle import Bundle
from flowsr_runtime.errors import (
    BundleError,
    MemoryBudgetError,
    ProviderError,
    UsageError,
)

__all__ = ["PROVIDERS", "OnnxRuntimeSession", "present_providers", "usable_cores"]

PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

_REMEDIES: Final = {
    "cpu": "reinstall onnxruntime",
    "cuda": "pip install 'flowsr-lp[gpu]', with an NVIDIA driver and CUDA",
    "tensorrt": "pip install 'flowsr-lp[gpu]', with the libraries of TensorRT 10",
    "openvino": "pip install onnxruntime-openvino in place of onnxruntime",
}

_ONE_DEVICE: Final = ("cpu", "openvino")
"""Providers that this version cannot send to another device than their own first."""

# How ONNX Runtime, CUDA, cuDNN and the C++ library word a failed allocation.
_OUT_OF_MEMORY: Final = (
    "failed to allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",
    "available memory of",
)

_STATE: Final = ort.capi.onnxruntime_pybind11_state
_MODEL_ERRORS: Final[tuple[type[Exception], ...]] = (
    _STATE.InvalidGraph,
    _STATE.InvalidProtobuf,
    _STATE.NotImplemented,
)
_ERRORS: Final[tuple[type[Exception], ...]] = (
    MemoryError,
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

    def __init__(
        self, model: bytes, *, provider: str, device: int, threads: int | None, name: str
    ) -> None:
        """Load a model.

        Args:
            model: Content of a self-contained ONNX file whose hash was checked.
            provider: A key of `PROVIDERS`.
            device: Index of the GPU; 0 with cpu and openvino.
            threads: CPU threads, None for the number of usable cores.
            name: What to call the model in messages.

        Raises:
            UsageError: If there is no such provider.
            ProviderError: If the provider or the device is missing.
            BundleError: If ONNX Runtime cannot load the model.
        """
        self.provider = provider
        self.device = device
        self._session: ort.InferenceSession | None = _load(
            model, provider, device, threads, name
        )
        self.inputs = frozenset(item.name for item in self._session.get_inputs())

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        *,
        provider: str = "cpu",
        device: int = 0,
        threads: int | None = None,
        precision: str = "fp32",
    ) -> "OnnxRuntimeSession":
        """Load a bundle's model.

        Args:
            bundle: Bundle with the model.
            provider: A key of `PROVIDERS`.
            device: Index of the GPU; 0 with cpu and openvino.
            threads: CPU threads, None for the number of usable cores.
            precision: "fp32", "fp16" or "int8".

        Returns:
            The session.

        Raises:
            UsageError: If there is no such provider.
            ProviderError: If the provider or the device is missing.
            BundleError: If the bundle holds no such model, or it is damaged, or takes other
                inputs than the manifest says.
        """
        name = bundle.model_name(precision)
        model = bundle.read(name)
        path = str(bundle.path / name)
        session = cls(model, provider=provider, device=device, threads=threads, name=path)
        expected = bundle.manifest.inputs
        if session.inputs != expected:
            raise BundleError(
                f"{path} takes {sorted(session.inputs)}, bundle.json says {sorted(expected)}"
            )
        return session

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run the model; see `Session.run`.

        Args:
            feeds: The graph's inputs by name.

        Returns:
            Unclamped pictures, (B, 3, H, W).

        Raises:
            MemoryBudgetError: If the device's memory does not suffice.
            ProviderError: If the provider fails while it runs.
        """
        if self._session is None:
            raise UsageError("the session is closed")
        try:
            output: NDArray[np.float32] = self._session.run(["output"], dict(feeds))[0]
        except _ERRORS as error:
            if _is_out_of_memory(error):
                raise MemoryBudgetError(
                    f"{self.provider} ran out of memory; give a smaller memory budget"
                ) from error
            raise ProviderError(f"{self.provider} failed: {_one_line(error)}") from error
        return output

    def close(self) -> None:
        """Free the model; the session cannot run after that."""
        self._session = None


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def present_providers() -> list[str]:
    """Return the keys of `PROVIDERS` that the installed onnxruntime holds.

    A provider that is there may still not start: its libraries or its device can be missing.
    """
    available = ort.get_available_providers()
    return [name for name, provider in PROVIDERS.items() if provider in available]


def _load(
    model: bytes, provider: str, device: int, threads: int | None, name: str
) -> ort.InferenceSession:
    wanted = _provider_name(provider)
    if provider in _ONE_DEVICE and device != 0:
        raise UsageError(f"device must be 0 with provider {provider}, got {device}")
    try:
        session = ort.InferenceSession(
            model,
            sess_options=_options(threads),
            providers=_provider_list(provider, device),
            enable_fallback=0,  # its fallback prints, and takes another provider in silence
        )
    except _ERRORS as error:
        if _is_out_of_memory(error):
            raise MemoryBudgetError(f"{name} does not fit in memory") from error
        if provider != "cpu" and not isinstance(error, _MODEL_ERRORS):
            raise ProviderError(
                f"provider {provider} did not start on device {device}: {_one_line(error)}"
            ) from error
        raise BundleError(f"onnxruntime cannot load {name}: {_one_line(error)}") from error
    if wanted not in session.get_providers():
        raise ProviderError(
            f"provider {provider} did not start on device {device}; {_REMEDIES[provider]}"
        )
    return session


def _provider_name(provider: str) -> str:
    if provider not in PROVIDERS:
        raise UsageError(f"provider must be one of {', '.join(PROVIDERS)}, got {provider!r}")
    wanted = PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise ProviderError(
            f"provider {provider} is not in the installed onnxruntime; {_REMEDIES[provider]}"
        )
    return wanted


def _provider_list(provider: str, device: int) -> list[Any]:
    arena = {"arena_extend_strategy": "kSameAsRequested"}
    cuda = (PROVIDERS["cuda"], {"device_id": str(device), **arena})
    accelerated: dict[str, list[Any]] = {
        "cpu": [],
        "cuda": [cuda],
        "tensorrt": [(PROVIDERS["tensorrt"], {"device_id": str(device)}), cuda],
        "openvino": [(PROVIDERS["openvino"], {})],
    }
    return [*accelerated[provider], PROVIDERS["cpu"]]


def _options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Memory patterns keep one block per tile shape and lay it out worse than the arena does:
    # 590 MB against 343 MB for 9 convolutions and a GEMM at 172x172, at the same speed (CPU).
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # errors
    return options


def _is_out_of_memory(error: BaseException) -> bool:
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in words for sign in _OUT_OF_MEMORY)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
