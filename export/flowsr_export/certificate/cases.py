"""Cases of a certificate: images, sizes, scales and seeds, whole and in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.geometry import output_size
from flowsr_runtime.pictures.depth import full_scale

__all__ = ["ADVERSARIAL", "PICTURES", "CertificateCase", "Mode", "case_list", "picture_of"]

Mode = Literal["whole", "tiles", "exact tiles", "exact seam"]
Picture = NDArray[np.float32]

SCALES = ("1.3", "2", "2.7", "3", "4", "6.5", "8", "12", "3.6x2.7")  # columns by rows
# One pixel, one-pixel rows and columns, even, odd, prime.
SIZES = ((1, 1), (1, 19), (31, 1), (16, 24), (15, 21), (23, 37))
BATCH = 3
NOISE_SIZES = ((14, 18),)
NOISE_LEVELS = 16
TILED_SCALES = ("2", "2.7", "4")
QUICK_TILED = ("2.7",)
# Side of a tiled image in multiples of the receptive field, so that its inner seams are further
# than that from every edge; and the minimum side, LR pixels.
REACHES = 2.25
MIN_SIDE = 96
WHITE = full_scale(np.dtype(np.uint8))


@dataclass(frozen=True)
class CertificateCase:
    """One image that every candidate upscales.

    Attributes:
        picture: A key of `PICTURES`.
        sizes: Sizes and batch.
        scale: Output pixels per input pixel, as WxH where the axes differ.
        seed: Random seed for noise in the image, and for the latents without a prior.
        tiled: Whether it is upscaled in tiles, with the default halo and with the exact one.
    """

    picture: str
    sizes: Case
    scale: str
    seed: int = 0
    tiled: bool = False

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Comparisons of the case.

        "whole": the whole image with PyTorch's. "tiles" and "exact tiles": tiles with the
        default and with the exact halo, compared with PyTorch's whole image. "exact seam":
        exact tiles with the whole image of the same candidate, which isolates the seam.
        """
        return ("tiles", "exact tiles", "exact seam") if self.tiled else ("whole",)

    def __str__(self) -> str:
        """Name of the case in messages and tables."""
        seed = f" {self.seed}" if "nois" in self.picture else ""
        return f"{self.picture}{seed}, ×{self.scale}, {self.sizes}"


def _noise(case: CertificateCase) -> Picture:
    rng = np.random.default_rng(case.seed)
    shape = (case.sizes.batch, 3, *case.sizes.lr)
    return np.asarray(rng.integers(0, WHITE + 1, shape) / WHITE, np.float32)


def _constant(case: CertificateCase, level: int) -> Picture:
    return np.full((case.sizes.batch, 3, *case.sizes.lr), level / WHITE, np.float32)


def _noisy(case: CertificateCase) -> Picture:
    """Return photographs with noise of a few levels."""
    rng = np.random.default_rng(case.seed)
    clean = np.rint(sample_pictures(case.sizes) * WHITE)
    levels = clean + rng.integers(-NOISE_LEVELS, NOISE_LEVELS + 1, clean.shape)
    return np.asarray(np.clip(levels, 0, WHITE) / WHITE, np.float32)


def _checkerboard(case: CertificateCase, dark: int, bright: int) -> Picture:
    picture = _constant(case, dark)
    picture[..., ::2, 1::2] = picture[..., 1::2, ::2] = bright / WHITE
    return picture


def _frame(case: CertificateCase) -> Picture:
    """Return a bright border, one pixel wide, which padding must not blur."""
    picture = _constant(case, 32)
    picture[..., [0, -1], :] = picture[..., [0, -1]] = 224 / WHITE
    return picture


def _step(case: CertificateCase) -> Picture:
    """Return a red first column beside blue: a sharp change of color on one side."""
    picture = _constant(case, 0)
    picture[:, 2] = 1
    picture[:, :, :, 0] = np.array([1, 0, 0], np.float32)[:, None]
    return picture


PICTURES: dict[str, Callable[[CertificateCase], Picture]] = {
    "photographs": lambda case: sample_pictures(case.sizes),
    "noisy photographs": _noisy,
    "black": lambda case: _constant(case, 0),
    "gray": lambda case: _constant(case, 128),
    "white": lambda case: _constant(case, WHITE),
    "frame": _frame,
    "faint checkerboard": lambda case: _checkerboard(case, 120, 136),
    "checkerboard": lambda case: _checkerboard(case, 0, WHITE),
    "step": _step,
    "noise": _noise,
}
"""Images by name; all of them hold eight-bit levels."""

ADVERSARIAL = ("frame", "faint checkerboard", "checkerboard", "step", "noise")
"""Unnatural images on which a flow's inverse may explode, in PyTorch too."""

NOISY = ("noisy photographs",)
PHOTOGRAPHS = ("photographs",)
FLAT = ("black", "gray", "white", "frame", "faint checkerboard")
UNNATURAL = ("checkerboard", "step", "noise")
Group = tuple[tuple[str, ...], tuple[tuple[int, int], ...], tuple[str, ...], int, Iterable[int]]
# Groups of cases: images, low-resolution sizes, scales, batch, seeds.
GROUPS: tuple[Group, ...] = (
    (PHOTOGRAPHS, SIZES, SCALES, 1, [0]),
    (PHOTOGRAPHS, ((16, 24),), ("2.7",), BATCH, [0]),
    (PHOTOGRAPHS, ((23, 37),), ("4",), BATCH, [0]),
    (PHOTOGRAPHS, ((96, 128),), ("4",), 1, [0]),
    (PHOTOGRAPHS, ((160, 144), (256, 1), (5, 256)), ("2",), 1, [0]),
    (FLAT, ((12, 17), (1, 8)), ("2", "2.7", "4"), 1, [0]),
    (NOISY, NOISE_SIZES, ("1.3", "3", "6.5"), 1, range(5)),
    (UNNATURAL, NOISE_SIZES, ("2.7", "4"), 1, [0]),
)
QUICK_GROUPS: tuple[Group, ...] = (
    (PHOTOGRAPHS, ((1, 1), (1, 19), (16, 24), (23, 37)), ("2.7", "4"), 1, [0]),
    (PHOTOGRAPHS, ((16, 24),), ("2.7",), BATCH, [0]),
    (("frame",), ((12, 17),), ("2.7",), 1, [0]),
    (NOISY, NOISE_SIZES, ("3",), 1, range(2)),
    (("checkerboard",), NOISE_SIZES, ("2.7",), 1, [0]),
)


def picture_of(case: CertificateCase) -> Picture:
    """Return the images of a case, (B, 3, h, w) in [0, 1]."""
    return PICTURES[case.picture](case)


def case_list(manifest: Manifest, *, quick: bool = False) -> list[CertificateCase]:
    """Return the cases of a bundle.

    Args:
        manifest: Manifest of the bundle; a fixed scale replaces every other scale.
        quick: Take a few cases of each group.

    Returns:
        Distinct cases; tiled ones only if the graph supports tiles.
    """
    cases = [
        _case(name, lr, scale, manifest, batch, seed=seed)
        for names, sizes, scales, batch, seeds in (QUICK_GROUPS if quick else GROUPS)
        for name in names
        for scale in scales
        for lr in sizes
        for seed in seeds
    ]
    if not manifest.tiling.whole_only:
        cases += [
            _case("photographs", _tiled_size(manifest, scale), scale, manifest, tiled=True)
            for scale in (QUICK_TILED if quick else TILED_SCALES)
        ]
    return list(dict.fromkeys(cases))


def _case(
    picture: str,
    lr: tuple[int, int],
    scale: str,
    manifest: Manifest,
    batch: int = 1,
    *,
    seed: int = 0,
    tiled: bool = False,
) -> CertificateCase:
    if manifest.scale is not None:
        scale = str(manifest.scale)
    columns, rows = _factors(scale)
    size = (output_size(lr[0], rows), output_size(lr[1], columns))
    return CertificateCase(picture, Case(lr, size, batch), scale, seed, tiled)


def _factors(scale: str) -> tuple[Fraction, Fraction]:
    first, *rest = (Fraction(text) for text in scale.split("x"))
    return first, rest[0] if rest else first


def _tiled_size(manifest: Manifest, scale: str) -> tuple[int, int]:
    """Return the LR size (h, w) of a tiled image, a strip where the halo has LR pixels only."""
    halo = manifest.tiling.exact
    factor = manifest.scale or _factors(scale)[0]
    reach = halo.pixels + float(halo.patches * halo.patch / factor)
    align = math.ceil(halo.align / factor)
    # Two tiles with their receptive fields, blending and alignment must not cover the image.
    smallest = 2 * reach + 4 * align + halo.lr_align
    side = math.ceil(max(MIN_SIDE, REACHES * reach, smallest))
    side = -(-side // halo.lr_align) * halo.lr_align
    return (2 * halo.lr_align, side) if halo.ratio is not None else (side, side)
