"""The interface between a model family and the exporter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from flowsr_export.inputs.cases import TEMPERATURE, Case, sample_pictures
from flowsr_lp import LinfLP, SrflowLP
from flowsr_runtime import Window
from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.errors import UsageError
from flowsr_runtime.geometry import Halo
from flowsr_runtime.tiling.graph_inputs import graph_inputs

__all__ = [
    "DTYPES",
    "Compilable",
    "Deployment",
    "LatentModules",
    "Network",
    "Precision",
    "StageModules",
]

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Network = LinfLP | SrflowLP


@dataclass(frozen=True)
class Compilable:
    """A module for the sizes of one profile.

    Attributes:
        module: The module.
        example: Inputs to trace it with, by name, in the order of its arguments.
        vary: Dynamic dimensions for `torch.export`, None if all sizes are fixed.
    """

    module: nn.Module
    example: dict[str, Tensor]
    vary: dict[str, Any] | None = None


@dataclass(frozen=True)
class StageModules:
    """The deployment module in two stages, for several scales of one image.

    Attributes:
        features: Module from `input` to what no scale changes.
        query: Module from the inputs of the whole graph and the features to `output`.
        axes: Names of the axes of each feature, None for a fixed one, in the order of the
            outputs of `features`.
    """

    features: nn.Module
    query: nn.Module
    axes: dict[str, tuple[str | None, ...]]


@dataclass(frozen=True)
class LatentModules:
    """Modules of latents, beside the deployment module of any scale.

    Attributes:
        encode: Module from `input`, `target`, and with any scale `geometry`, to the latents and
            `log_likelihood`.
        sample: Module from `input`, `geometry`, the latents and `prior_weight` to `output`;
            None without a prior, whose whole graph takes the latents.
        latents: The latents.
    """

    encode: nn.Module
    sample: nn.Module | None
    latents: tuple[Latent, ...]


class Deployment(ABC):
    """A network and its deployment.

    Attributes:
        family: Name of the family in the manifest.
        half_share: Least share of multiply-adds in half precision in such a graph.
        max_abs: Largest accepted difference of a float32 graph from PyTorch, 1 is full range.
        multiple: Divisor of the sides of the graph's input.
        scale: Fixed scale of the network, None for any.
        latents: Noise inputs; none with a learned prior.
    """

    family: ClassVar[str]
    half_share: ClassVar[float]
    max_abs: ClassVar[float]
    multiple: ClassVar[int] = 1
    scale: Fraction | None = None
    latents: tuple[Latent, ...]

    @abstractmethod
    def islands(self, precision: Precision) -> list[str]:
        """Return the parts that stay float32 in a graph of half precision."""

    @abstractmethod
    def graph(self, dtype: torch.dtype, scale: Fraction | None) -> nn.Module:
        """Return the deployment module; with a `scale` it takes whole images only."""

    @abstractmethod
    def example(self, scale: Fraction | None) -> dict[str, Tensor]:
        """Return inputs to trace `graph` with, by name."""

    def stages(self, dtype: torch.dtype) -> StageModules | None:
        """Return the module of any scale in two stages, None if the family has none."""
        return None

    @abstractmethod
    def latent_modules(self) -> LatentModules:
        """Return the modules of latents in float32."""

    @abstractmethod
    def reference_encoding(
        self, rgb: Tensor, target: Tensor
    ) -> tuple[Sequence[Tensor], Tensor]:
        """Encode pictures (B, 3, H, W) given (B, 3, h, w), both in [0, 1], in eager PyTorch.

        Returns:
            The latents, and the log density in nats, (B, patches) or of pictures, (B, 1).
        """

    @abstractmethod
    def predicted_latents(self, rgb: Tensor, size: tuple[int, int]) -> Sequence[Tensor]:
        """Return the learned prior's latents in eager PyTorch."""

    def vary(self, example: dict[str, Tensor]) -> dict[str, Any]:
        """Return the dynamic dimensions of the example's inputs for `torch.export`."""
        free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
        return {name: free if x.ndim == 4 else None for name, x in example.items()}

    @abstractmethod
    def compilable(
        self,
        dtype: torch.dtype,
        scale: Fraction | None,
        profile: Profile,
        *,
        fuse: bool = False,
    ) -> Compilable:
        """Return the deployment module for the sizes of a profile, for a compiler.

        Args:
            dtype: As for `graph`.
            fuse: Use the project's own Triton kernels where the network has any.
            scale: As for `graph`.
            profile: Ranges by input.
        """

    @abstractmethod
    def takes_geometry(self, scale: Fraction | None) -> bool:
        """Whether `graph` has the input `geometry`."""

    @abstractmethod
    def whole_only(self, scale: Fraction | None) -> bool:
        """Whether `graph` upscales whole images only, no tiles."""

    @abstractmethod
    def reference(
        self, rgb: Tensor, size: tuple[int, int], latents: Sequence[Tensor] | None
    ) -> Tensor:
        """Upscale (B, 3, h, w) in [0, 1] to (B, 3, H, W) in eager float32 PyTorch."""

    @abstractmethod
    def exported_cases(self, scale: Fraction | None) -> list[Case]:
        """Return the cases that check every export; the traced sizes are not among them."""

    @abstractmethod
    def verify_cases(self, scale: Fraction | None) -> list[Case]:
        """Return the cases of a full verification."""

    @abstractmethod
    def seam_cases(self) -> list[Case]:
        """Return the cases that the seam between tiles is measured on."""

    @abstractmethod
    def exact_halo(self) -> Halo:
        """Return the whole receptive field, with which tiles equal the whole image."""

    @abstractmethod
    def halos(self) -> list[Halo]:
        """Return the halos to try, the smallest first, the whole receptive field last."""

    @abstractmethod
    def memory(self, weights: int, halo: Halo | None) -> dict[str, int]:
        """Return the manifest's model of the peak activation memory.

        Args:
            weights: Size of the ONNX file in bytes.
            halo: Default halo of tiles, None for whole images only.
        """

    @abstractmethod
    def work(self, model: onnx.ModelProto, scale: Fraction | None) -> dict[str, int]:
        """Count the multiply-adds for the manifest."""

    @abstractmethod
    def condition_numbers(self) -> list[float]:
        """Return the condition number of each linear map of the flow."""

    @abstractmethod
    def round_trip(self) -> float:
        """Return the error of decode(encode(x)) on a photograph, relative to max |x|."""

    @abstractmethod
    def published(self) -> Callable[[Tensor, tuple[int, int]], Tensor]:
        """Return the network with a prior in the published order of operations.

        It maps (B, 3, h, w) in [0, 1] and an output size (H, W) to (B, 3, H, W).
        """

    def set_guard(self, guard: bool | None) -> None:
        """Turn the guard of the network on or off; None keeps it.

        Raises:
            UsageError: If the family has no guard and `guard` is true.
        """
        if guard:
            raise UsageError(
                f"guard must be off for {self.family}, whose latents span the image, got on",
                option="guard",
            )

    def padded(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Round low-resolution sides (h, w) up to multiples that the graph takes."""
        h, w = (-(-n // self.multiple) * self.multiple for n in sides)
        return h, w

    def padded_size(self, case: Case) -> tuple[int, int]:
        """Return the output size (H, W) of the padded image."""
        if self.multiple == 1:
            return case.size
        h, w = (int(n * (self.scale or 1)) for n in self.padded(case.lr))
        return h, w

    def feeds(
        self,
        case: Case,
        scale: Fraction | None,
        rgb: NDArray[np.float32] | None = None,
        seed: int = 0,
    ) -> dict[str, NDArray[Any]]:
        """Make the inputs of `graph` for a case, with noise if there is no prior.

        Args:
            case: Sizes and batch.
            scale: Scale passed to `graph`.
            rgb: Images (B, 3, h, w) in [0, 1]; None for photographs.
            seed: Random seed of the noise.

        Returns:
            `input` (B, 3, h, w), `geometry` (10,) int64, `latent…` (B, D, rows, columns).
        """
        lr, size = self.padded(case.lr), self.padded_size(case)
        right = [(0, 0), (0, 0), *((0, n - m) for n, m in zip(lr, case.lr, strict=True))]
        images = sample_pictures(case) if rgb is None else rgb
        return graph_inputs(
            np.pad(images, right, mode="reflect"),
            Window.whole(lr, size),
            latents=self.latents,
            geometry=self.takes_geometry(scale),
            seed=seed,
            temperature=TEMPERATURE,
        )

    def manifest_fields(self, scale: Fraction | None) -> dict[str, Any]:
        """Return the manifest's entries about inputs and scale."""
        fixed = scale or self.scale
        return {
            "family": self.family,
            "scale": {"kind": "fixed", "value": str(fixed)} if fixed else {"kind": "any"},
            "picture": {
                "colour": "RGB",
                "range": [0.0, 1.0],
                "layout": "NCHW",
                "multiple": self.multiple,
            },
            "graph": {"geometry": self.takes_geometry(scale)},
            "latents": [
                {"name": latent.name, "channels": latent.channels, "patch": latent.patch}
                for latent in self.latents
            ],
        }
