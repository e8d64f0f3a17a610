"""What a certificate compares: pictures, sizes, scales and seeds, whole and in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_export.inputs.cases import Case, sample_pictures
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.geometry import Halo, output_size

__all__ = ["ADVERSARIAL", "PICTURES", "Mode", "CertificateCase", "picture_of", "case_list"]

Mode = Literal["whole", "tiles", "exact tiles", "exact seam"]
Picture = NDArray[np.float32]

SCALES = ("1.3", "2", "2.7", "3", "4", "6.5", "8", "12")
UNEQUAL = "3.6x2.7"  # columns by rows
QUICK_SCALES = ("2.7", "4")
# One pixel, one-pixel rows and columns, even, odd, prime.
SIZES = ((1, 1), (1, 19), (31, 1), (16, 24), (15, 21), (23, 37))
QUICK_SIZES = ((1, 1), (1, 19), (16, 24), (23, 37))
LARGE = (((96, 128), "4"), ((160, 144), "2"), ((256, 1), "2"), ((5, 256), "2"))
BATCHED = (((16, 24), "2.7"), ((23, 37), "4"))
BATCH = 3
BORDER_SIZES = ((12, 17), (1, 8))
BORDER_SCALES = ("2", "2.7", "4")
NOISE_SIZE = (14, 18)
NOISE_SCALES = ("1.3", "3", "6.5")
NOISE_LEVELS = 16
SEEDS = range(5)
HARSH_SCALES = ("2.7", "4")
TILED_SCALES = ("2", "2.7", "4")
QUICK_TILED = ("2.7",)
# A tiled picture is wide enough that its inner seams are further from an edge than the whole
# receptive field, in multiples of that; and never narrower than this, LR pixels.
REACHES = 2.25
LEAST_SIDE = 96
EIGHT_BIT = 255


@dataclass(frozen=True)
class CertificateCase:
    """One picture that every subject enlarges.

    Attributes:
        picture: A key of `PICTURES`.
        case: Sizes and batch.
        scale: Output pixels per input pixel, as WxH where the axes differ.
        seed: Of the noise in the picture, and of the latents of a bundle without a prior.
        tiled: Whether it is enlarged in tiles, of the default halo and of the exact one.
    """

    picture: str
    case: Case
    scale: str
    seed: int = 0
    tiled: bool = False

    @property
    def kinds(self) -> tuple[Mode, ...]:
        """What is compared of it.

        "whole": the whole picture with PyTorch's. "tiles" and "exact tiles": tiles of the
        default and of the exact halo with PyTorch's whole picture. "exact seam": these tiles
        with the whole picture of the same subject, which leaves the seam alone.
        """
        return ("tiles", "exact tiles", "exact seam") if self.tiled else ("whole",)

    def __str__(self) -> str:
        """Name the trial as messages and tables do."""
        seed = f" {self.seed}" if "nois" in self.picture else ""
        return f"{self.picture}{seed}, ×{self.scale}, {self.case}"


def _noise(trial: CertificateCase) -> Picture:
    rng = np.random.default_rng(trial.seed)
    shape = (trial.case.batch, 3, *trial.case.lr)
    return np.asarray(rng.integers(0, EIGHT_BIT + 1, shape) / EIGHT_BIT, np.float32)


def _constant(level: int) -> Callable[[CertificateCase], Picture]:
    def filled(trial: CertificateCase) -> Picture:
        shape = (trial.case.batch, 3, *trial.case.lr)
        return np.full(shape, level / EIGHT_BIT, np.float32)

    return filled


def _noisy(trial: CertificateCase) -> Picture:
    """Photographs with noise of a few levels."""
    rng = np.random.default_rng(trial.seed)
    clean = np.rint(sample_pictures(trial.case) * EIGHT_BIT)
    levels = clean + rng.integers(-NOISE_LEVELS, NOISE_LEVELS + 1, clean.shape)
    return np.asarray(np.clip(levels, 0, EIGHT_BIT) / EIGHT_BIT, np.float32)


def _checkerboard(dark: int, bright: int) -> Callable[[CertificateCase], Picture]:
    def alternating(trial: CertificateCase) -> Picture:
        picture = _constant(dark)(trial)
        picture[..., ::2, 1::2] = picture[..., 1::2, ::2] = bright / EIGHT_BIT
        return picture

    return alternating


def _frame(trial: CertificateCase) -> Picture:
    """Bright along every border, one pixel wide: an edge that a border's rule must not blur."""
    picture = _constant(32)(trial)
    picture[..., [0, -1], :] = picture[..., [0, -1]] = 224 / EIGHT_BIT
    return picture


def _step(trial: CertificateCase) -> Picture:
    """A red first column beside blue: sharp in colour, on one side alone."""
    picture = _constant(0)(trial)
    picture[:, 2] = 1
    picture[:, :, :, 0] = np.array([1, 0, 0], np.float32)[:, None]
    return picture


PICTURES: dict[str, Callable[[CertificateCase], Picture]] = {
    "photographs": lambda trial: sample_pictures(trial.case),
    "noisy photographs": _noisy,
    "black": _constant(0),
    "grey": _constant(128),
    "white": _constant(EIGHT_BIT),
    "frame": _frame,
    "faint checkerboard": _checkerboard(120, 136),
    "checkerboard": _checkerboard(0, EIGHT_BIT),
    "step": _step,
    "noise": _noise,
}
"""Pictures by name; all of them hold eight-bit levels."""

ADVERSARIAL = ("frame", "faint checkerboard", "checkerboard", "step", "noise")
"""Pictures like no photograph, on which a flow's own inverse may explode, in PyTorch too."""

BORDERS = ("black", "grey", "white", "frame", "faint checkerboard")
QUICK_BORDERS = ("frame",)
FULL_RANGE = ("checkerboard", "step", "noise")


def picture_of(trial: CertificateCase) -> Picture:
    """Return the pictures of a trial, (B, 3, h, w) in [0, 1]."""
    return PICTURES[trial.picture](trial)


def case_list(manifest: Manifest, *, quick: bool = False) -> list[CertificateCase]:
    """List what is compared of a bundle.

    Args:
        manifest: Of the bundle; its one scale takes the place of every other.
        quick: Take a few of each group.

    Returns:
        The trials, each once; tiled ones only if the graph takes tiles.
    """
    sizes, scales = (QUICK_SIZES, QUICK_SCALES) if quick else (SIZES, (*SCALES, UNEQUAL))
    trials = [_trial("photographs", lr, scale, manifest) for scale in scales for lr in sizes]
    batched = BATCHED[:1] if quick else BATCHED
    trials += [_trial("photographs", lr, scale, manifest, BATCH) for lr, scale in batched]
    trials += [_trial("photographs", *pair, manifest) for pair in LARGE[: 0 if quick else None]]
    trials += [
        _trial(name, lr, scale, manifest)
        for name in (QUICK_BORDERS if quick else BORDERS)
        for scale in (QUICK_SCALES[:1] if quick else BORDER_SCALES)
        for lr in (BORDER_SIZES[:1] if quick else BORDER_SIZES)
    ]
    trials += [
        _trial("noisy photographs", NOISE_SIZE, scale, manifest, seed=seed)
        for scale in (NOISE_SCALES[1:2] if quick else NOISE_SCALES)
        for seed in SEEDS[: 2 if quick else None]
    ]
    trials += [
        _trial(name, NOISE_SIZE, scale, manifest)
        for name in (FULL_RANGE[:1] if quick else FULL_RANGE)
        for scale in (HARSH_SCALES[:1] if quick else HARSH_SCALES)
    ]
    if not manifest.tiling.whole_only:
        trials += [
            _trial("photographs", _tiled_size(manifest, scale), scale, manifest, tiled=True)
            for scale in (QUICK_TILED if quick else TILED_SCALES)
        ]
    return list(dict.fromkeys(trials))


def _trial(
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
    """LR size (h, w) of a tiled picture; a strip where the halo is told in LR pixels alone."""
    halo = manifest.tiling.exact
    factor = manifest.scale or _factors(scale)[0]
    reach, align = _reach(halo, factor), math.ceil(halo.align / factor)
    # Two pieces, each with what it sees, its blending and its alignment, are no whole picture.
    least = 2 * reach + 4 * align + halo.lr_align
    side = math.ceil(max(LEAST_SIDE, REACHES * reach, least))
    side = -(-side // halo.lr_align) * halo.lr_align
    return (2 * halo.lr_align, side) if halo.ratio is not None else (side, side)


def _reach(halo: Halo, scale: Fraction) -> float:
    """LR pixels to each side that a tile holds beyond what is kept of it."""
    return halo.pixels + float(halo.patches * halo.patch / scale)
