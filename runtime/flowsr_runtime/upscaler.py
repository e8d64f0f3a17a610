"""Enlarge pictures with a bundle: checks, tiles, runs, blends and rounds."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.bundle import Bundle, embedded_bundle
from flowsr_runtime.errors import (
    BundleError,
    MemoryBudgetError,
    NonFiniteError,
    ScaleError,
    ShapeError,
    UsageError,
)
from flowsr_runtime.geometry import Number, output_size, size_for
from flowsr_runtime.noise import check_noise, latent
from flowsr_runtime.session import Session, open_session
from flowsr_runtime.tiling import Plan, Tile, blend, plan_tiles

__all__ = ["DEFAULT_MEMORY_BUDGET", "Upscaler"]

DEFAULT_MEMORY_BUDGET: Final = 2**30
"""Bytes of activations that one run may take."""

PixelT = TypeVar("PixelT", np.uint8, np.float32)
HaloName = Literal["default", "exact"]
Progress = Callable[[int, int], None]


class Upscaler:
    """A model that is ready to enlarge pictures; `upscale` may be called from many threads.

    The memory budget bounds the activations of one run. The output picture and one row of
    tiles in float32 come on top.
    """

    def __init__(
        self,
        bundle: Bundle,
        session: Session,
        *,
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
        halo: HaloName = "default",
    ) -> None:
        """Join a bundle and a session of its model; see `open`."""
        _check_settings(memory_budget, halo)
        tiling = bundle.manifest.tiling
        self.bundle = bundle
        self.memory_budget = memory_budget
        self.halo = halo
        self._session: Session | None = session
        self._halo = tiling.exact if halo == "exact" else tiling.halo
        # Tiles with an exact halo agree to float rounding: there is nothing to blend.
        self._fade = 0 if halo == "exact" else self._halo.align

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        backend: str = "onnxruntime",
        provider: str = "cpu",
        device: int = 0,
        threads: int | None = None,
        precision: str = "fp32",
        memory_budget: int = DEFAULT_MEMORY_BUDGET,
        halo: HaloName = "default",
    ) -> "Upscaler":
        """Load a model.

        Args:
            bundle: Bundle or its directory, None for the one that ships with the package.
            backend: "onnxruntime".
            provider: "cpu", "cuda", "tensorrt" or "openvino".
            device: Index of the GPU; 0 with cpu and openvino.
            threads: CPU threads, None for the number of usable cores.
            precision: "fp32", "fp16" or "int8".
            memory_budget: Bytes of activations that one run may take; a larger picture is
                cut into tiles.
            halo: "default": tiles agree to one eight-bit step; "exact": to float rounding,
                at a higher cost.

        Returns:
            The upscaler.

        Raises:
            UsageError: If an argument is not one of these.
            BackendError: If the backend's library is not installed.
            ProviderError: If the provider or the device is missing.
            BundleError: If the bundle is missing, damaged or newer.
        """
        _check_settings(memory_budget, halo)
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(embedded_bundle() if bundle is None else bundle)
        session = open_session(
            bundle,
            backend=backend,
            provider=provider,
            device=device,
            threads=threads,
            precision=precision,
        )
        return cls(bundle, session, memory_budget=memory_budget, halo=halo)

    def plan(
        self,
        source: tuple[int, int],
        scale: Number | tuple[Number, Number] | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> Plan:
        """Return how a picture would be cut, without computing anything.

        Args:
            source: Input size (h, w).
            scale: Output pixels per input pixel, at least 1, one number or (row, column).
            size: Output size (H, W), in place of `scale`.

        Returns:
            The tiles and the estimated memory of one run.

        Raises:
            ScaleError: If the scale or size cannot be produced.
            MemoryBudgetError: If even the smallest tile does not fit.
        """
        manifest = self.bundle.manifest
        target = size_for(source, scale=scale, size=size)
        if manifest.scale is not None:
            _check_fixed(manifest.scale, source, target)
        return plan_tiles(
            source,
            target,
            halo=self._halo,
            memory=manifest.memory,
            budget=self.memory_budget,
            fade=self._fade,
            whole_only=manifest.scale is not None,
        )

    def upscale(
        self,
        image: NDArray[PixelT],
        scale: Number | tuple[Number, Number] | None = None,
        *,
        size: tuple[int, int] | None = None,
        clamp: bool = True,
        seed: int = 0,
        temperature: float | None = None,
        progress: Progress | None = None,
    ) -> NDArray[PixelT]:
        """Enlarge one picture.

        Args:
            image: RGB picture, (h, w, 3) uint8, or float32 in [0, 1].
            scale: Output pixels per input pixel, at least 1, one number or (row, column).
            size: Output size (H, W), in place of `scale`.
            clamp: Clamp the result to [0, 1]; only a float32 result can go without.
            seed: Seed of the noise, 64 bits unsigned; used with `temperature` alone.
            temperature: Standard deviation of the latent, for a bundle without a learned
                prior, which needs it; 0 gives the mode.
            progress: Called with (tiles done, tiles in all) after each tile.

        Returns:
            RGB picture, (H, W, 3) of the input's dtype, H = floor(h * scale + 1/2).

        Raises:
            ShapeError: If `image` is not (h, w, 3) uint8 or float32.
            ScaleError: If the scale or size cannot be produced.
            UsageError: If the other arguments do not go with the image or the bundle.
            MemoryBudgetError: If the memory does not suffice.
            NonFiniteError: If the model gives NaN or infinity.
        """
        _check_image(image)
        if image.dtype == np.uint8 and not clamp:
            raise UsageError("clamp=False needs a float32 image, got uint8")
        self._check_noise(seed, temperature)
        if self._session is None:
            raise UsageError("the upscaler is closed")
        source = (image.shape[0], image.shape[1])
        plan = self.plan(source, scale, size=size)
        result = _allocate((plan.rows[-1].end, plan.columns[-1].end, 3), image.dtype)
        run = _Run(self.bundle, self._session, image, seed, temperature, len(plan), progress)
        for rows, band in blend(plan, run.compute):
            _write(band, result[rows], clamp=clamp)
        return result

    def close(self) -> None:
        """Free the model; the upscaler cannot be used after that."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def __enter__(self) -> "Upscaler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_noise(self, seed: int, temperature: float | None) -> None:
        channels = self.bundle.manifest.latent_channels
        if channels is None and temperature is not None:
            raise UsageError(
                "this bundle has a learned prior and takes no temperature; "
                "export one without --prior to sample"
            )
        if channels is not None and temperature is None:
            raise UsageError(
                "this bundle has no learned prior; give temperature (0 gives the mode)"
            )
        check_noise(seed, 0.0 if temperature is None else temperature)


@dataclass
class _Run:
    """What the tiles of one picture have in common."""

    bundle: Bundle
    session: Session
    image: NDArray[np.uint8] | NDArray[np.float32]
    seed: int
    temperature: float | None
    total: int
    progress: Progress | None
    done: int = 0

    def compute(self, tile: Tile) -> NDArray[np.float32]:
        """Run one tile and return the pixels that are kept, (rows, columns, 3)."""
        window = tile.window
        output = self.session.run(self._feeds(tile))
        expected = (1, 3, window.rows.out_size, window.columns.out_size)
        if output.shape != expected:
            raise BundleError(f"the model gave {output.shape} where {expected} is due")
        kept: NDArray[np.float32] = output[0].transpose(1, 2, 0)[tile.kept]
        _check_finite(kept, tile.rows.begin, tile.columns.begin)
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
        return kept

    def _feeds(self, tile: Tile) -> dict[str, NDArray[Any]]:
        manifest = self.bundle.manifest
        feeds: dict[str, NDArray[Any]] = {"input": _input(self.image[tile.source])}
        if manifest.scale is None:
            feeds["geometry"] = tile.window.geometry()
        if manifest.latent_channels is not None and self.temperature is not None:
            rows, columns = tile.window.rows, tile.window.columns
            patch = manifest.tiling.halo.patch
            feeds["latent"] = latent(
                self.seed,
                top=rows.out_begin // patch,
                left=columns.out_begin // patch,
                rows=-(-rows.out_size // patch),
                columns=-(-columns.out_size // patch),
                channels=manifest.latent_channels,
                temperature=self.temperature,
            )
        return feeds


def _check_settings(memory_budget: object, halo: object) -> None:
    if not isinstance(memory_budget, (int, np.integer)) or memory_budget < 1:
        raise UsageError(
            f"memory_budget must be a whole number of bytes above 0, got {memory_budget!r}"
        )
    if halo not in ("default", "exact"):
        raise UsageError(f"halo must be default or exact, got {halo!r}")


def _check_fixed(fixed: Fraction, source: tuple[int, int], target: tuple[int, int]) -> None:
    expected = (output_size(source[0], fixed), output_size(source[1], fixed))
    if target != expected:
        raise ScaleError(
            f"this bundle makes {expected[0]}x{expected[1]}, its fixed scale {fixed}, got "
            f"{target[0]}x{target[1]}; export one without --scale for any other"
        )


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.float32):
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(f"image must be a uint8 or float32 array, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ShapeError(f"image must be (h, w, 3), got {image.shape}")
    if image.dtype == np.float32:
        least, most = image.min(), image.max()
        if not (least >= 0 and most <= 1):
            raise UsageError(
                f"float32 image must lie in [0, 1], got values from {least} to {most}"
            )


def _check_finite(kept: NDArray[np.float32], top: int, left: int) -> None:
    bad = ~np.isfinite(kept)
    count = int(np.count_nonzero(bad))
    if count == 0:
        return
    rows, columns = (np.flatnonzero(bad.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    raise NonFiniteError(
        f"the model gave NaN or infinity: {count} of {bad.size} values "
        f"({100 * count / bad.size:.3g} %) in output rows {top + rows[0]}-{top + rows[-1]}, "
        f"columns {left + columns[0]}-{left + columns[-1]}"
    )


def _allocate(shape: tuple[int, int, int], dtype: np.dtype[PixelT]) -> NDArray[PixelT]:
    try:
        return np.empty(shape, dtype=dtype)
    except MemoryError as error:
        raise MemoryBudgetError(
            f"an output of {shape[0]}x{shape[1]} does not fit in memory"
        ) from error


def _input(crop: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (h, w, 3) pixels as the graph takes them, (1, 3, h, w) in [0, 1]."""
    planes: NDArray[np.float32] = np.array(
        crop.transpose(2, 0, 1)[None], dtype=np.float32, order="C"
    )
    if crop.dtype == np.uint8:
        planes /= np.float32(255)
    return planes


def _write(band: NDArray[np.float32], result: NDArray[Any], *, clamp: bool) -> None:
    """Clamp finished rows, round them half up if `result` is uint8, and store them."""
    if clamp:
        np.clip(band, 0.0, 1.0, out=band)
    if result.dtype == np.uint8:
        band *= np.float32(255)
        band += np.float32(0.5)
    result[...] = band  # to uint8 this cuts the fraction off
