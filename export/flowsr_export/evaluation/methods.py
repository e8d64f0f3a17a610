"""What enlarges the pictures that are evaluated: bicubic, a bundle, a network in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from flowsr_export.evaluation.imresize import matlab_bicubic
from flowsr_runtime import Upscaler
from flowsr_runtime.errors import NonFiniteError, ScaleError, UsageError
from flowsr_runtime.pictures.pixels import store
from flowsr_runtime.tiling.noise import check_noise

if TYPE_CHECKING:
    from flowsr_export.deployment.interface import Network
    from flowsr_runtime.bundle.manifest import Latent

__all__ = ["OURS", "Bicubic", "BundleMethod", "Enlarged", "Method", "TorchMethod"]

Picture = NDArray[np.uint8]

OURS = "flowsr-lp"


@dataclass(frozen=True)
class Enlarged:
    """One result.

    Attributes:
        picture: RGB picture, (H, W, 3) uint8.
        warning: One line if values lay far out of range, else None.
    """

    picture: Picture
    warning: str | None = None


class Method(Protocol):
    """A way to enlarge a picture."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def samples(self) -> bool:
        """Whether another seed gives another picture."""

    def enlarge(self, low: Picture, size: tuple[int, int], seed: int) -> Enlarged:
        """Enlarge (h, w, 3) uint8 to (H, W, 3)."""


@dataclass(frozen=True)
class Bicubic:
    """MATLAB's bicubic."""

    name: str = "bicubic"
    samples: bool = False

    def enlarge(self, low: Picture, size: tuple[int, int], seed: int) -> Enlarged:
        """Enlarge one picture; the seed is of no use."""
        return Enlarged(matlab_bicubic(low, size))


@dataclass(frozen=True)
class BundleMethod:
    """A bundle on any backend of the runtime.

    Attributes:
        upscaler: The open model.
        temperature: Of the noise; None with a learned prior.
        truncate: Cut values down to eight bits in place of rounding them.
    """

    upscaler: Upscaler
    temperature: float | None = None
    truncate: bool = False
    name: str = field(default=OURS, init=False)

    def __post_init__(self) -> None:
        """Check, before slow work, that the temperature goes with the bundle."""
        _check_temperature(self.upscaler.bundle.manifest.latents, self.temperature)

    @property
    def samples(self) -> bool:
        """Whether there is noise."""
        return bool(self.upscaler.bundle.manifest.latents) and self.temperature != 0

    def enlarge(self, low: Picture, size: tuple[int, int], seed: int) -> Enlarged:
        """Enlarge one picture.

        Raises:
            FlowsrError: As `Upscaler.upscale`.
        """
        lines: list[str] = []
        picture = self.upscaler.upscale(
            low,
            size=size,
            seed=seed,
            temperature=self.temperature,
            truncate=self.truncate,
            warn=lines.append,
        )
        return Enlarged(picture, "; ".join(lines) or None)


class TorchMethod:
    """A network in eager PyTorch, whole pictures; its noise is that of the runtime."""

    name = OURS

    def __init__(
        self,
        network: Network,
        *,
        place: str = "cpu",
        temperature: float | None = None,
        truncate: bool = False,
    ) -> None:
        """Put a network where it runs.

        Args:
            network: LINF-LP or SRFlow-LP.
            place: PyTorch's device, such as "cuda:0".
            temperature: Of the noise; None with a learned prior.
            truncate: Cut values down to eight bits in place of rounding them.

        Raises:
            UsageError: If the temperature does not go with the network.
        """
        from flowsr_export.deployment.families import deployment_of

        self._deployment = deployment_of(network.to(place))
        self._place, self._temperature, self._truncate = place, temperature, truncate
        _check_temperature(self._deployment.latents, temperature)

    @property
    def samples(self) -> bool:
        """Whether there is noise."""
        return bool(self._deployment.latents) and self._temperature != 0

    def enlarge(self, low: Picture, size: tuple[int, int], seed: int) -> Enlarged:
        """Enlarge one picture.

        Raises:
            ScaleError: If the network has another scale.
            NonFiniteError: If it gives NaN or infinity.
        """
        import torch

        from flowsr_export.inputs.cases import Case, latents_for

        case = Case((low.shape[0], low.shape[1]), size)
        scale = self._deployment.scale
        if scale is not None and size != tuple(int(side * scale) for side in case.lr):
            raise ScaleError(f"this model enlarges {float(scale):g} times only, got {case}")
        rgb = torch.from_numpy(low.transpose(2, 0, 1)[None] / np.float32(255)).to(self._place)
        drawn = latents_for(
            self._deployment.latents,
            self._deployment.padded_size(case),
            batch=1,
            seed=seed,
            temperature=self._temperature or 0.0,
        )
        noise = [torch.from_numpy(one).to(self._place) for one in drawn.values()]
        with torch.inference_mode():
            output = self._deployment.reference(rgb, size, noise or None)[0].cpu().numpy()
        if not np.isfinite(output).all():
            raise NonFiniteError("the model gives NaN or infinity")
        picture = np.empty((*size, 3), np.uint8)
        store(output.transpose(1, 2, 0).copy(), picture, clamp=True, truncate=self._truncate)
        return Enlarged(picture)


def _check_temperature(latents: Sequence[Latent], temperature: float | None) -> None:
    """Refuse a temperature that does not go with a model."""
    if latents and temperature is None:
        raise UsageError(
            "this model has no learned prior; give a temperature (0 gives the mode)"
        )
    if temperature is not None and not latents:
        raise UsageError("this model has a learned prior and takes no temperature")
    check_noise(0, temperature or 0.0)
