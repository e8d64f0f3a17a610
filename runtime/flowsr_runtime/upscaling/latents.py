"""Latents of pictures: encode a pair of pictures, decode latents, keep them in a file."""

import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.session import AUTO, SessionSettings
from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.manifest import LatentGraphs
from flowsr_runtime.errors import (
    BundleError,
    InputError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    UsageError,
)
from flowsr_runtime.geometry import Window, size_text
from flowsr_runtime.pictures.pixels import check_image, planes
from flowsr_runtime.tiling.cgroups import available_memory
from flowsr_runtime.upscaling.opening import chosen
from flowsr_runtime.upscaling.sampling import SampleSession

__all__ = ["Encoded", "LatentCoder", "blended", "load_latents", "latents_bytes"]

_GIB: Final = 1 << 30
_ARRAYS: Final = ("latent", "log_likelihood", "image", "size", "model")


@dataclass(frozen=True)
class Encoded:
    """A high-resolution picture as the latent of its low-resolution one.

    Attributes:
        latent: Latent, (D, rows, columns).
        log_likelihood: Log density of each patch in nats, (rows, columns).
        image: Low-resolution image, (h, w, 3) uint8, uint16 or float32 in [0, 1].
        size: Output size (H, W).
        model: SHA-256 of the model's checkpoint, as in the bundle.
    """

    latent: NDArray[np.float32]
    log_likelihood: NDArray[np.float32]
    image: NDArray[Any]
    size: tuple[int, int]
    model: str

    @property
    def bits_per_value(self) -> float:
        """Mean negative log density of a value of the patches, in bits."""
        values = self.latent.shape[0] * self.log_likelihood.size
        return float(-self.log_likelihood.sum(dtype=np.float64) / (values * np.log(2)))


class LatentCoder:
    """A bundle's graphs of latents; pictures are computed whole.

    Attributes:
        bundle: The bundle.
    """

    def __init__(self, bundle: Bundle, session: Any, graphs: LatentGraphs) -> None:
        """Combine a bundle, a session of its model on ONNX Runtime, and its graphs."""
        self.bundle, self._session, self._graphs = bundle, session, graphs

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        settings: SessionSettings | None = None,
    ) -> "LatentCoder":
        """Load the graphs.

        Args:
            bundle: Bundle with graphs of latents, or its directory.
            settings: Settings of the session, None for ONNX Runtime on the CPU; with backend
                "auto" it is ONNX Runtime.

        Raises:
            UsageError: If the bundle has no such graphs, or the backend takes none.
            FlowsrError: As `SessionSettings.open`.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        graphs = opened.manifest.latent_graphs
        if graphs is None:
            raise UsageError(
                f"{opened.path} holds no graphs of latents; export-onnx --latents adds them"
            )
        settings = settings or SessionSettings()
        if settings.backend == AUTO:
            settings = replace(settings, backend="onnxruntime")
        opened, session, _ = chosen(opened, settings)
        if not hasattr(session, "further"):
            session.close()
            raise UsageError(f"latents need backend onnxruntime, got {session.backend}")
        return cls(opened, session, graphs)

    def encode(self, image: NDArray[Any], target: NDArray[Any]) -> Encoded:
        """Encode a high-resolution picture, given the low-resolution one.

        Args:
            image: Low-resolution RGB image, (h, w, 3) uint8, uint16 or float32 in [0, 1].
            target: High-resolution RGB image, (H, W, 3) of such a type, no side smaller.

        Returns:
            The latent and the log density of its patches.

        Raises:
            ShapeError: If an image is not RGB, or the target is smaller.
            MemoryBudgetError: If the whole image does not fit in memory.
            NonFiniteError: If the model returns NaN or infinity.
        """
        for name, pixels in (("image", image), ("target", target)):
            _check_rgb(name, pixels)
        size = (target.shape[0], target.shape[1])
        if size[0] < image.shape[0] or size[1] < image.shape[1]:
            raise ShapeError(
                f"target must be at least {size_text(image.shape[:2])}, got {size_text(size)}"
            )
        feeds = self._feeds(image, size)
        feeds["target"] = planes(target)
        outputs = self._session.further(self._graphs.encode).outputs(feeds)
        latent, density = outputs["latent"][0], outputs["log_likelihood"][0, 0]
        if not (np.isfinite(latent).all() and np.isfinite(density).all()):
            raise NonFiniteError("the model returned NaN or infinity for a latent")
        return Encoded(latent, density, image, size, self._model)

    def decode(self, encoded: Encoded) -> NDArray[np.float32]:
        """Decode a latent on its low-resolution image.

        Args:
            encoded: The latent.

        Returns:
            RGB image, unclamped, (H, W, 3).

        Raises:
            BundleError: If the latent is of another model.
            ShapeError: If the latent does not fit the output.
            MemoryBudgetError: If the whole image does not fit in memory.
            NonFiniteError: If the model returns NaN or infinity.
        """
        if encoded.model != self._model:
            raise BundleError(
                f"the latent is of model {encoded.model[:12]}…, {self.bundle.path} holds "
                f"{self._model[:12]}…"
            )
        _check_rgb("image", encoded.image)
        latent = self._graphs.latent
        expected = (latent.channels, *latent.grid(encoded.size))
        if encoded.latent.shape != expected:
            found = encoded.latent.shape
            raise ShapeError(f"the latent must have shape {expected}, got {found}")
        feeds = self._feeds(encoded.image, encoded.size)
        feeds["latent"] = np.ascontiguousarray(encoded.latent[None], dtype=np.float32)
        session = self._session
        if self._graphs.sample is not None:
            session = SampleSession(session, self._graphs.sample, 0.0)
        output: NDArray[np.float32] = session.run(feeds)[0].transpose(1, 2, 0)
        if not np.isfinite(output).all():
            raise NonFiniteError("the model returned NaN or infinity for an image")
        return output

    def close(self) -> None:
        """Free the model."""
        self._session.close()

    def __enter__(self) -> "LatentCoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _model(self) -> str:
        stated = self.bundle.manifest.raw.get("model")
        return str(stated.get("model_sha256")) if isinstance(stated, dict) else "unknown"

    def _feeds(self, image: NDArray[Any], size: tuple[int, int]) -> dict[str, NDArray[Any]]:
        """Return the inputs that both graphs take, if the image fits in memory."""
        rows, columns = self._graphs.latent.grid(size)
        pixels = image.shape[0] * image.shape[1]
        needed = self.bundle.manifest.memory.estimate(pixels, rows * columns)
        available = available_memory()
        if available is not None and needed > available:
            raise MemoryBudgetError(
                f"latents of {size_text(size)} need about {needed / _GIB:.1f} GiB, and "
                f"{available / _GIB:.1f} GiB are available; they are computed whole"
            )
        geometry = Window.whole(image.shape[:2], size).geometry()
        return {"input": planes(image), "geometry": geometry}


def blended(first: Encoded, second: Encoded, weight: float) -> Encoded:
    """Move a latent toward another one, on the first one's image.

    Args:
        first: Latent and image.
        second: Latent of the same size, of the same model.
        weight: 0 for the first latent, 1 for the second one (a transfer).

    Returns:
        (1 - weight) times the first latent plus weight times the second one. Its log density
        is that of neither and is set to NaN.

    Raises:
        ShapeError: If the latents differ in size.
        BundleError: If they are of different models.
    """
    if first.latent.shape != second.latent.shape:
        found = f"{first.latent.shape} and {second.latent.shape}"
        raise ShapeError(f"latents must have one shape, got {found}")
    if first.model != second.model:
        raise BundleError(
            f"latents must be of one model, got {first.model[:12]}… and {second.model[:12]}…"
        )
    latent = (1 - weight) * first.latent + weight * second.latent
    unknown = np.full_like(first.log_likelihood, np.nan)
    return replace(first, latent=latent.astype(np.float32), log_likelihood=unknown)


def latents_bytes(encoded: Encoded) -> bytes:
    """Return the content of an .npz file with the arrays of `Encoded` by name."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        latent=encoded.latent,
        log_likelihood=encoded.log_likelihood,
        image=encoded.image,
        size=np.array(encoded.size, dtype=np.int64),
        model=np.array(encoded.model),
    )
    return file.getvalue()


def load_latents(path: str | os.PathLike[str]) -> Encoded:
    """Read a file of `latents_bytes`.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        InputError: If the file is missing, damaged, or holds other arrays.
    """
    try:
        content = io.BytesIO(Path(path).read_bytes())  # a damaged file is closed, too
        with np.load(content, allow_pickle=False) as arrays:
            latent, density, image, size, model = (arrays[name] for name in _ARRAYS)
    except OSError as error:
        reason = error.strerror or "it is no .npz file"
        raise InputError(f"latents {path} cannot be read: {reason}") from error
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise InputError(f"latents {path} are damaged, or no file of encode") from error
    rules: dict[str, Callable[[], bool]] = {
        "latent": lambda: latent.dtype == np.float32 and latent.ndim == 3,
        "log_likelihood": lambda: density.shape == latent.shape[1:],
        "image": lambda: image.ndim == 3 and image.shape[2] == 3,
        "size": lambda: size.shape == (2,) and size.dtype == np.int64 and size.min() > 0,
        "model": lambda: model.dtype.kind == "U" and model.ndim == 0,
    }
    for name, holds in rules.items():
        if not holds():
            raise InputError(f"{name} of latents {path} is of another type or shape")
    if not np.isfinite(latent).all():
        raise InputError(f"latent of latents {path} holds NaN or infinity")
    return Encoded(latent, density, image, (int(size[0]), int(size[1])), str(model))


def _check_rgb(name: str, pixels: NDArray[Any]) -> None:
    """Refuse what is not an RGB image."""
    check_image(pixels, clamp=True, truncate=False)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ShapeError(f"{name} must be RGB, (rows, columns, 3), got {pixels.shape}")
