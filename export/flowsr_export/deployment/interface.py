"""What the exporter asks of a network, whichever family it is of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from flowsr_export.inputs.cases import Case, latents_for, sample_pictures
from flowsr_lp import LinfLP, SrflowLP
from flowsr_runtime import Window
from flowsr_runtime.bundle.manifest import Latent
from flowsr_runtime.geometry import Halo

__all__ = [
    "DTYPES",
    "Deployment",
    "Network",
    "Precision",
]

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Network = LinfLP | SrflowLP


class Deployment(ABC):
    """A network and how it is deployed.

    Attributes:
        family: As the manifest names it.
        islands: Parts that stay float32 in a half-precision graph.
        half_share: Share of the multiply-adds that a half-precision graph has in half.
        max_abs: Largest difference from PyTorch of a float32 graph, 1 is full range.
        multiple: Sides of the graph's input are multiples of this.
        scale: The only scale of the network, None for any.
        latents: Inputs of noise; none with a learned prior.
    """

    family: ClassVar[str]
    islands: ClassVar[tuple[str, ...]]
    half_share: ClassVar[float]
    max_abs: ClassVar[float]
    multiple: ClassVar[int] = 1
    scale: Fraction | None = None
    latents: tuple[Latent, ...]

    @abstractmethod
    def graph(self, dtype: torch.dtype, scale: Fraction | None) -> nn.Module:
        """Restate the network; with a `scale` it takes no geometry and whole pictures only."""

    @abstractmethod
    def example(self, scale: Fraction | None) -> dict[str, Tensor]:
        """Inputs to trace `graph` with, by name: sizes and a batch that are no constants."""

    def vary(self, example: dict[str, Tensor]) -> dict[str, Any]:
        """Which dimensions of the example's inputs vary, for `torch.export`."""
        free = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
        return {name: free if x.ndim == 4 else None for name, x in example.items()}

    @abstractmethod
    def takes_geometry(self, scale: Fraction | None) -> bool:
        """Whether `graph` has the input `geometry`."""

    @abstractmethod
    def whole_only(self, scale: Fraction | None) -> bool:
        """Whether `graph` computes whole pictures only."""

    @abstractmethod
    def reference(
        self, rgb: Tensor, size: tuple[int, int], latents: Sequence[Tensor] | None
    ) -> Tensor:
        """Enlarge (B, 3, h, w) in [0, 1] in eager float32 PyTorch to (B, 3, H, W)."""

    @abstractmethod
    def exported_cases(self, scale: Fraction | None) -> list[Case]:
        """Cases that every export is checked with; none was traced with."""

    @abstractmethod
    def verify_cases(self, scale: Fraction | None) -> list[Case]:
        """Cases of `flowsr-export verify`."""

    @abstractmethod
    def seam_cases(self) -> list[Case]:
        """Pictures that the seam is measured on."""

    @abstractmethod
    def exact_halo(self) -> Halo:
        """The whole receptive field: with it tiles equal the whole picture."""

    @abstractmethod
    def halos(self) -> list[Halo]:
        """Halos to try, the smallest first, the whole receptive field last."""

    @abstractmethod
    def memory(self, weights: int, halo: Halo | None) -> dict[str, int]:
        """Peak activation memory as the manifest states it.

        Args:
            weights: Bytes of the ONNX file.
            halo: The default halo of tiles, None for whole pictures only.
        """

    @abstractmethod
    def work(self, model: onnx.ModelProto, scale: Fraction | None) -> dict[str, int]:
        """Multiply-adds as the manifest states them, counted from the graph."""

    @abstractmethod
    def condition_numbers(self) -> list[float]:
        """Ratio of the largest to the smallest singular value of each map of the flow."""

    @abstractmethod
    def round_trip(self) -> float:
        """Largest error of decode(encode(x)) on a photograph, relative to x's range."""

    def padded(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Low-resolution sides (h, w) as the graph takes them."""
        h, w = (-(-n // self.multiple) * self.multiple for n in sides)
        return h, w

    def padded_size(self, case: Case) -> tuple[int, int]:
        """Output size (H, W) of the padded picture."""
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
        """Inputs of `graph` for a case, with noise where there is no prior.

        Args:
            case: Sizes and batch.
            scale: As `graph` took it.
            rgb: Pictures (B, 3, h, w) in [0, 1]; None for photographs.
            seed: Seed of the noise.

        Returns:
            `input` (B, 3, h, w), `geometry` (10,) int64, `latent…` (B, D, rows, columns).
        """
        lr, size = self.padded(case.lr), self.padded_size(case)
        right = [(0, 0), (0, 0), *((0, n - m) for n, m in zip(lr, case.lr, strict=True))]
        feeds: dict[str, NDArray[Any]] = {
            "input": np.pad(
                sample_pictures(case) if rgb is None else rgb, right, mode="reflect"
            )
        }
        if self.takes_geometry(scale):
            feeds["geometry"] = Window.whole(lr, size).geometry()
        return feeds | latents_for(self.latents, size, case.batch, seed)

    def manifest_fields(self, scale: Fraction | None) -> dict[str, Any]:
        """What the manifest says of inputs and scale."""
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
