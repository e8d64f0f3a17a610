"""How the latents of one call are made: drawn, mixed with the learned prior's, or given."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.bundle.manifest import Latent, Manifest
from flowsr_runtime.errors import ShapeError, UsageError
from flowsr_runtime.tiling.noise import check_noise

__all__ = ["Noise", "SampleSession", "noise_of"]


@dataclass(frozen=True)
class Noise:
    """The noise of one call.

    Attributes:
        latents: Noise inputs of the graph; none if the learned prior alone decides.
        seed: Random seed.
        temperature: Standard deviation.
        strength: Factors of the temperature in [0, 1] over the whole image, (rows, columns)
            of any size; None for 1.
        prior_weight: Factor of the prior's latent in a graph that takes both, else None.
    """

    latents: tuple[Latent, ...]
    seed: int
    temperature: float
    strength: NDArray[np.float32] | None = None
    prior_weight: float | None = None


class SampleSession:
    """Runs the graph of a bundle that decodes a · z_LP + z."""

    def __init__(self, session: Session, file: str, prior_weight: float) -> None:
        """Load the graph.

        Args:
            session: Session of the bundle, on ONNX Runtime.
            file: The graph's file.
            prior_weight: Factor a of the prior's latent.
        """
        loading: Any = session
        self._session = loading.further(file)
        self._weight = np.full(1, prior_weight, np.float32)
        self.backend, self.provider = session.backend, session.provider
        self.device, self.limits = session.device, session.limits

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the graph; see `Session.run`."""
        result: NDArray[Any] = self._session.run({**feeds, "prior_weight": self._weight})
        return result

    def close(self) -> None:
        """Do nothing: the session of the bundle closes the graph."""


def noise_of(
    manifest: Manifest,
    session: Session,
    *,
    seed: int,
    temperature: float | None,
    prior_mix: float | None,
    temperature_map: NDArray[Any] | None,
) -> Noise:
    """Check how a call wants its latents.

    Args:
        manifest: Manifest of the bundle.
        session: Session of its model.
        seed: As for `Upscaler.upscale`.
        temperature: As for `Upscaler.upscale`.
        prior_mix: As for `Upscaler.upscale`.
        temperature_map: As for `Upscaler.upscale`.

    Returns:
        The noise.

    Raises:
        UsageError: If an argument is invalid or does not fit the bundle or the backend.
        ShapeError: If the map is not gray.
    """
    strength = _strength(temperature_map)
    if strength is not None and temperature is None:
        raise UsageError("temperature_map needs a temperature", option="temperature_map")
    graphs, weight = manifest.latent_graphs, None
    latents = manifest.latents
    if latents and prior_mix is not None:
        message = f"prior_mix needs a bundle with a learned prior, got {prior_mix}"
        raise UsageError(message, option="prior_mix")
    if latents and temperature is None:
        raise UsageError(
            "this bundle has no learned prior; give temperature (0 gives the mode)",
            option="temperature",
        )
    check_noise(seed, 0.0 if temperature is None else temperature)
    if not latents and (temperature is not None or prior_mix is not None):
        name = "prior_mix" if temperature is None else "temperature"
        value = prior_mix if temperature is None else temperature
        if graphs is None or graphs.sample is None:
            raise UsageError(
                f"this bundle has a learned prior and takes no {name}, got {value}; "
                "export-onnx --latents adds a graph that does",
                option=name,
            )
        if not hasattr(session, "further"):
            raise UsageError(
                f"{name} beside a learned prior needs onnxruntime, got {session.backend}",
                option=name,
            )
        weight, latents = _weight(prior_mix), graphs.latents
    return Noise(latents, seed, temperature or 0.0, strength, weight)


def _weight(prior_mix: object) -> float:
    if prior_mix is None:
        return 0.0
    if not isinstance(prior_mix, numbers.Real) or not math.isfinite(prior_mix):
        message = f"prior_mix must be a finite number, got {prior_mix!r}"
        raise UsageError(message, option="prior_mix")
    return float(prior_mix)


def _strength(pixels: NDArray[Any] | None) -> NDArray[np.float32] | None:
    """Return a map of factors in [0, 1]."""
    if pixels is None:
        return None
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or not pixels.size:
        shape = getattr(pixels, "shape", type(pixels).__name__)
        message = f"temperature_map must be gray, (rows, columns), got {shape}"
        raise ShapeError(message, option="temperature_map")
    if pixels.dtype not in (np.uint8, np.uint16, np.float32):
        message = f"temperature_map must be uint8, uint16 or float32, got {pixels.dtype}"
        raise ShapeError(message, option="temperature_map")
    factors = pixels.astype(np.float32)
    if pixels.dtype != np.float32:
        factors /= np.float32(np.iinfo(pixels.dtype).max)
    if not (np.isfinite(factors).all() and factors.min() >= 0 and factors.max() <= 1):
        raise UsageError("temperature_map must lie in [0, 1]", option="temperature_map")
    return factors
