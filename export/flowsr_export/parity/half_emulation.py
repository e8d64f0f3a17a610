"""Emulate the half-precision arithmetic of a GPU in PyTorch on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowsr_export.deployment.interface import DTYPES, Deployment, Precision
from flowsr_runtime.bundle.profile_limits import ProfileLimits

__all__ = ["HalfPrecisionEmulator"]

HALVES = {torch.float16, torch.bfloat16}
aten = torch.ops.aten
PRODUCTS = {
    aten.addmm.default,
    aten.bmm.default,
    aten.conv2d.default,
    aten.convolution.default,
    aten.linear.default,
    aten.matmul.default,
    aten.mm.default,
    aten.mv.default,
}


class HalfPrecisionEmulator:
    """A session that rounds every result of a half-precision layer to half.

    On a CPU, ONNX Runtime computes float16 graphs in float32 between casts and does not run
    bfloat16, so it cannot show their error. Here every tensor of a half-precision layer is
    rounded and sums inside a product are float32, as on the tensor cores of a GPU.

    Attributes:
        backend: Name for the manifest.
        provider: "cpu".
        device: 0.
        limits: None: every size is accepted.
    """

    provider = "cpu"
    device = 0
    limits: ProfileLimits | None = None

    def __init__(
        self, deployment: Deployment, precision: Precision, scale: Fraction | None
    ) -> None:
        """Restate the network.

        Args:
            deployment: The network.
            precision: Type of the heavy layers.
            scale: The fixed scale of the graph, None for any.
        """
        dtype = DTYPES[precision]
        self.backend = f"PyTorch {str(dtype).removeprefix('torch.')} graph"
        self._names = list(deployment.example(scale))
        self._graph = deployment.graph(dtype, scale).eval()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run the graph.

        Args:
            feeds: Inputs by name.

        Returns:
            Unclamped images, (B, 3, H, W).
        """
        inputs = [torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in self._names]
        with torch.inference_mode(), _FloatSums():  # type: ignore[no-untyped-call]
            output: NDArray[np.float32] = self._graph(*inputs).numpy()
        return output

    def close(self) -> None:
        """Do nothing; only memory is held."""


class _FloatSums(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's own
    """Compute products of half tensors in float32 and round once.

    It is also fast on a CPU: PyTorch's half convolution there is a hundred times slower.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        halves = [x.dtype for x in args if isinstance(x, Tensor) and x.dtype in HALVES]
        if func not in PRODUCTS or not halves:
            return func(*args, **(kwargs or {}))
        wide = [x.float() if isinstance(x, Tensor) else x for x in args]
        return func(*wide, **(kwargs or {})).to(halves[0])
