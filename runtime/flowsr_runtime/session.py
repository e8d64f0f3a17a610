"""A session: one loaded model on one backend, and how to open it."""

import operator
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.bundle import Bundle
from flowsr_runtime.errors import BackendError, UsageError

__all__ = ["BACKENDS", "Session", "open_session"]

BACKENDS = {
    "onnxruntime": "flowsr-lp[cpu]",
    "tensorrt": None,
    "tensorrt_rtx": None,
}
"""Backends and the extra that installs each; None: reserved, not in this version."""


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

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run the model.

        Args:
            feeds: The graph's inputs by name: `input` (B, 3, h, w), and `geometry` (10,)
                int64 and latents (B, D, rows, columns) where the graph has them.

        Returns:
            Unclamped pictures, (B, 3, H, W).

        Raises:
            MemoryBudgetError: If the device's memory does not suffice.
        """

    def close(self) -> None:
        """Free the model; the session cannot run after that."""


def open_session(
    bundle: Bundle,
    *,
    backend: str = "onnxruntime",
    provider: str = "cpu",
    device: int = 0,
    threads: int | None = None,
    precision: str = "fp32",
) -> Session:
    """Load a bundle's model on a backend.

    Args:
        bundle: Bundle with the model.
        backend: A key of `BACKENDS`.
        provider: What the backend computes with: "cpu", "cuda", "tensorrt" or "openvino".
        device: Index of the GPU; 0 with cpu and openvino.
        threads: CPU threads, None for the number of usable cores.
        precision: "fp32", "fp16" or "int8".

    Returns:
        The session.

    Raises:
        UsageError: If an argument is not one of these.
        BackendError: If the backend's library is not installed.
        ProviderError: If the provider or the device is missing.
        BundleError: If the bundle holds no such model, or it is damaged.
    """
    _check_count("device", device, least=0)
    if threads is not None:
        _check_count("threads", threads, least=1)
    if backend not in BACKENDS:
        raise UsageError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    extra = BACKENDS[backend]
    if extra is None:
        raise BackendError(f"backend {backend} is not in this version; use onnxruntime")
    try:
        from flowsr_runtime.onnxruntime_session import OnnxRuntimeSession
    except ImportError as error:
        if error.name != backend:
            raise BackendError(f"{backend} cannot be loaded: {error}") from error
        raise BackendError(f"{backend} is not installed; pip install '{extra}'") from error
    return OnnxRuntimeSession.open(
        bundle, provider=provider, device=device, threads=threads, precision=precision
    )


def _check_count(name: str, value: object, *, least: int) -> None:
    try:
        count = operator.index(value)  # type: ignore[arg-type]  # its TypeError is the check
    except TypeError as error:
        raise UsageError(f"{name} must be a whole number, got {value!r}") from error
    if count < least:
        raise UsageError(f"{name} must be at least {least}, got {count}")
