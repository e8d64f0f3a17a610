"""Latents of pictures: encode a pair of pictures, decode latents, keep them in a file."""

import io
import os
import re
import zipfile
from collections.abc import Callable, Mapping
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
from flowsr_runtime.geometry import Window, output_size, size_text
from flowsr_runtime.pictures.pixels import check_image, padded, planes
from flowsr_runtime.tiling.cgroups import available_memory
from flowsr_runtime.upscaling.opening import chosen

__all__ = ["EncodedPicture", "LatentCoder", "blend_latents", "load_latents", "latents_bytes"]

_GIB: Final = 1 << 30
_ARRAYS: Final = ("log_likelihood", "image", "size", "model")
_LATENT: Final = re.compile(r"latent\d*")


@dataclass(frozen=True)
class EncodedPicture:
    """A high-resolution picture as the latent of its low-resolution one.

    Attributes:
        latents: Latents by name, (D, rows, columns) each: `latent` of LINF, `latent0`,
            `latent1` … of SRFlow, the finest first.
        log_likelihood: Log density in nats by cell of the coarsest latent, (rows, columns): of
            each patch of LINF; of SRFlow each cell's share.
        image: Low-resolution image, (h, w, 3) uint8, uint16 or float32 in [0, 1].
        size: Output size (H, W).
        model: SHA-256 of the model's checkpoint, as in the bundle.
    """

    latents: Mapping[str, NDArray[np.float32]]
    log_likelihood: NDArray[np.float32]
    image: NDArray[Any]
    size: tuple[int, int]
    model: str

    @property
    def bits_per_value(self) -> float:
        """Mean negative log density of a value of the latents, in bits."""
        values = sum(latent.size for latent in self.latents.values())
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

    def encode(self, image: NDArray[Any], target: NDArray[Any]) -> EncodedPicture:
        """Encode a high-resolution picture, given the low-resolution one.

        Args:
            image: Low-resolution RGB image, (h, w, 3) uint8, uint16 or float32 in [0, 1].
            target: High-resolution RGB image, (H, W, 3) of such a type, no side smaller.

        Returns:
            The latents and their log density.

        Raises:
            ShapeError: If an image is not RGB, or the target is smaller, or of another size
                than a model of one scale makes.
            MemoryBudgetError: If the whole image does not fit in memory.
            NonFiniteError: If the model returns NaN or infinity.
        """
        for name, pixels in (("image", image), ("target", target)):
            _check_rgb(name, pixels)
        size = (target.shape[0], target.shape[1])
        self._check_size("target", image, size)
        session = self._session.further(self._graphs.encode)
        whole = planes(_continued(target, self._padded_size(image, size)))
        outputs = session.outputs(self._feeds(session, image, size, {"target": whole}))
        density = outputs.pop("log_likelihood")[0, 0]
        latents = {name: values[0] for name, values in outputs.items()}
        if not all(np.isfinite(values).all() for values in (density, *latents.values())):
            raise NonFiniteError("the model returned NaN or infinity for a latent")
        return EncodedPicture(latents, density, image, size, self._model)

    def decode(self, encoded: EncodedPicture) -> NDArray[np.float32]:
        """Decode latents on their low-resolution image.

        Args:
            encoded: The latents.

        Returns:
            RGB image, unclamped, (H, W, 3).

        Raises:
            BundleError: If the latents are of another model.
            ShapeError: If a latent does not fit the output, or the output the image.
            MemoryBudgetError: If the whole image does not fit in memory.
            NonFiniteError: If the model returns NaN or infinity.
        """
        if encoded.model != self._model:
            raise BundleError(
                f"the latent is of model {encoded.model[:12]}…, {self.bundle.path} holds "
                f"{self._model[:12]}…"
            )
        _check_rgb("image", encoded.image)
        self._check_size("size", encoded.image, encoded.size)
        size = self._padded_size(encoded.image, encoded.size)
        expected = {
            latent.name: (latent.channels, *latent.grid(size))
            for latent in self._graphs.latents
        }
        found = {name: values.shape for name, values in encoded.latents.items()}
        if found != expected:
            name = next((name for name in expected if found.get(name) != expected[name]), None)
            name = name or next(name for name in found if name not in expected)
            raise ShapeError(
                f"{name} must have shape {expected.get(name)}, got {found.get(name)}"
            )
        given: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(values[None], dtype=np.float32)
            for name, values in encoded.latents.items()
        }
        session = self._session
        if self._graphs.sample is not None:
            session = session.further(self._graphs.sample)
            given["prior_weight"] = np.zeros(1, np.float32)
        feeds = self._feeds(session, encoded.image, encoded.size, given)
        output: NDArray[np.float32] = session.run(feeds)[0].transpose(1, 2, 0)
        output = output[: encoded.size[0], : encoded.size[1]]
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

    def _check_size(self, name: str, image: NDArray[Any], size: tuple[int, int]) -> None:
        """Refuse an output that no scale, or not the model's one, makes of an image."""
        source, scale = (image.shape[0], image.shape[1]), self.bundle.manifest.scale
        if scale is not None:
            due = output_size(source[0], scale), output_size(source[1], scale)
            if size != due:
                raise ShapeError(
                    f"{name} must be {size_text(due)}, {float(scale):g} times the image, "
                    f"got {size_text(size)}"
                )
        elif size[0] < source[0] or size[1] < source[1]:
            raise ShapeError(
                f"{name} must be at least {size_text(source)}, got {size_text(size)}"
            )

    def _padded_size(self, image: NDArray[Any], size: tuple[int, int]) -> tuple[int, int]:
        """Return the output size of the image with sides that the graph takes."""
        manifest = self.bundle.manifest
        if manifest.scale is None:
            return size
        height, width = (
            output_size(-(-side // manifest.multiple) * manifest.multiple, manifest.scale)
            for side in image.shape[:2]
        )
        return height, width

    def _feeds(
        self,
        session: Any,
        image: NDArray[Any],
        size: tuple[int, int],
        further: dict[str, NDArray[Any]],
    ) -> dict[str, NDArray[Any]]:
        """Return the inputs of a graph, if the image fits in memory."""
        image = padded(image, self.bundle.manifest.multiple)
        target = self._padded_size(image, size)
        patch = self.bundle.manifest.tiling.exact.patch
        patches = -(-target[0] // patch) * -(-target[1] // patch)
        pixels = image.shape[0] * image.shape[1]
        needed = self.bundle.manifest.memory.estimate(pixels, patches)
        available = available_memory()
        if available is not None and needed > available:
            raise MemoryBudgetError(
                f"latents of {size_text(size)} need about {needed / _GIB:.1f} GiB, and "
                f"{available / _GIB:.1f} GiB are available; they are computed whole"
            )
        feeds: dict[str, NDArray[Any]] = {"input": planes(image), **further}
        if "geometry" in session.inputs:
            feeds["geometry"] = Window.whole(image.shape[:2], target).geometry()
        return feeds


def _continued(target: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Mirror the last pixels of a picture, as its low-resolution image is padded.

    A row of that image which repeats the one before the last is a block of rows here, which
    repeats the block before the last, turned.
    """
    for axis in (0, 1):
        missing = size[axis] - target.shape[axis]
        if missing:
            begin = max(target.shape[axis] - 2 * missing, 0)
            block = np.take(target, range(begin, begin + missing), axis)
            target = np.concatenate((target, np.flip(block, axis)), axis)
    return target


def blend_latents(
    first: EncodedPicture, second: EncodedPicture, weight: float
) -> EncodedPicture:
    """Move latents toward others, on the first ones' image.

    Args:
        first: Latents and image.
        second: Latents of the same sizes, of the same model.
        weight: 0 for the first latents, 1 for the second ones (a transfer).

    Returns:
        (1 - weight) times the first latents plus weight times the second ones. Their log
        density is that of neither and is set to NaN.

    Raises:
        ShapeError: If the latents differ in size.
        BundleError: If they are of different models.
    """
    shapes = [
        {name: values.shape for name, values in one.latents.items()} for one in (first, second)
    ]
    if shapes[0] != shapes[1]:
        found = " and ".join(", ".join(map(str, one.values())) for one in shapes)
        raise ShapeError(f"latents must have the same shapes, got {found}")
    if first.model != second.model:
        raise BundleError(
            f"latents must be of one model, got {first.model[:12]}… and {second.model[:12]}…"
        )
    between = {
        name: ((1 - weight) * values + weight * second.latents[name]).astype(np.float32)
        for name, values in first.latents.items()
    }
    unknown = np.full_like(first.log_likelihood, np.nan)
    return replace(first, latents=between, log_likelihood=unknown)


def latents_bytes(encoded: EncodedPicture) -> bytes:
    """Return the content of an .npz file: the latents and the other attributes by name."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {
        **encoded.latents,
        "log_likelihood": encoded.log_likelihood,
        "image": encoded.image,
        "size": np.array(encoded.size, dtype=np.int64),
        "model": np.array(encoded.model),
    }
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def load_latents(path: str | os.PathLike[str]) -> EncodedPicture:
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
            latents = {name: arrays[name] for name in arrays.files if _LATENT.fullmatch(name)}
            density, image, size, model = (arrays[name] for name in _ARRAYS)
    except OSError as error:
        reason = error.strerror or "it is no .npz file"
        raise InputError(f"latents {path} cannot be read: {reason}") from error
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise InputError(f"latents {path} are damaged, or no file of encode") from error
    rules: dict[str, Callable[[], bool]] = {
        "latent": lambda: bool(latents) and all(map(_is_latent, latents.values())),
        "log_likelihood": lambda: density.shape in {x.shape[1:] for x in latents.values()},
        "image": lambda: image.ndim == 3 and image.shape[2] == 3,
        "size": lambda: size.shape == (2,) and size.dtype == np.int64 and size.min() > 0,
        "model": lambda: model.dtype.kind == "U" and model.ndim == 0,
    }
    for name, holds in rules.items():
        if not holds():
            raise InputError(f"{name} of latents {path} is of another type or shape")
    for name, values in latents.items():
        if not np.isfinite(values).all():
            raise InputError(f"{name} of latents {path} holds NaN or infinity")
    return EncodedPicture(latents, density, image, (int(size[0]), int(size[1])), str(model))


def _is_latent(values: NDArray[Any]) -> bool:
    return values.dtype == np.float32 and values.ndim == 3


def _check_rgb(name: str, pixels: NDArray[Any]) -> None:
    """Refuse what is not an RGB image."""
    check_image(pixels, clamp=True, truncate=False)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ShapeError(f"{name} must be RGB, (rows, columns, 3), got {pixels.shape}")
