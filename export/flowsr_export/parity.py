"""Comparing a runtime with the PyTorch reference, in the units of pictures; fails closed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from flowsr_export.onnx_export import Precision
from flowsr_lp import LinfLP
from flowsr_runtime import Window, output_size
from flowsr_runtime.errors import ParityError
from flowsr_runtime.noise import latent as draw_latent

__all__ = [
    "BARS",
    "TEMPERATURE",
    "Bar",
    "Case",
    "Figures",
    "compare",
    "exported_cases",
    "feeds_of",
    "photographs",
    "verify_cases",
]

PICTURES = Path(__file__).parent / "pictures"
CROP_ORIGIN = 64  # row and column of the photographs at which every crop begins
EIGHT_BIT = 255
TEMPERATURE = 0.5  # of the latents that a model without a learned prior is compared with
Scale = Fraction | tuple[Fraction, Fraction]


class Run(Protocol):
    """What runs the graph: a session of the runtime."""

    def run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Output of the graph for named inputs."""
        ...


@dataclass(frozen=True)
class Bar:
    """The largest difference that is accepted; None where a precision has no such bar.

    Attributes:
        max_abs: Largest difference of any value, 1 is full range.
        max_steps: Largest difference of eight-bit pictures.
        p999_steps: 99.9th percentile of the difference, in eight-bit steps, not rounded.
        psnr: Smallest PSNR between the two outputs, dB.
    """

    max_abs: float | None = None
    max_steps: int | None = None
    p999_steps: float | None = None
    psnr: float | None = None


BARS: dict[Precision, Bar] = {
    "fp32": Bar(max_abs=1e-4, max_steps=1),
    "fp16": Bar(psnr=50.0, p999_steps=2.0),
}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        lr: Low-resolution size (h, w).
        size: Output size (H, W).
        batch: Pictures at once.
    """

    lr: tuple[int, int]
    size: tuple[int, int]
    batch: int = 1

    def __str__(self) -> str:
        """Name the case as messages and tables do."""
        (h, w), (out_h, out_w) = self.lr, self.size
        return f"{w}x{h} to {out_w}x{out_h}, batch {self.batch}"


@dataclass(frozen=True)
class Figures:
    """How far two outputs are apart.

    Attributes:
        case: What was compared.
        max_abs: Largest difference, 1 is full range.
        max_steps: Largest difference of the eight-bit pictures.
        p999_steps: 99.9th percentile of the difference, in eight-bit steps, not rounded.
        psnr: PSNR between the outputs in dB, infinity when equal.
        non_finite: Values that are not finite, in either output.
    """

    case: Case
    max_abs: float
    max_steps: int
    p999_steps: float
    psnr: float
    non_finite: int

    def misses(self, bar: Bar) -> list[str]:
        """Say which bars are missed; a figure that is not a number misses every bar."""
        missed = []
        if self.non_finite:
            missed.append(f"{self.non_finite} values are not finite")
        limits = (
            ("max error", self.max_abs, bar.max_abs, 1),
            ("eight-bit error", self.max_steps, bar.max_steps, 1),
            ("p99.9 error in steps", self.p999_steps, bar.p999_steps, 1),
            ("PSNR", self.psnr, bar.psnr, -1),
        )
        for name, value, limit, sign in limits:
            if limit is not None and not sign * value <= sign * limit:
                word = "at most" if sign > 0 else "at least"
                missed.append(f"{name} must be {word} {limit:g}, got {value:.3g}")
        return missed

    def as_dict(self) -> dict[str, Any]:
        """Figures for JSON; an infinite PSNR is null."""
        values = asdict(self)
        values["psnr"] = self.psnr if math.isfinite(self.psnr) else None
        return values


def exported_cases(scale: Fraction | None) -> list[Case]:
    """Cases that every export is checked with; none was traced with."""
    scales: list[Scale] = [scale] if scale else [Fraction("1.3"), Fraction(4)]
    return _cases([(24, 24), (17, 30), (9, 1)], scales)


def verify_cases(scale: Fraction | None) -> list[Case]:
    """Cases of `flowsr-export verify`: sides from 1 to 256, odd and even, scales to 12."""
    texts = ("1.3", "2", "3", "4", "8", "12")
    scales: list[Scale] = [Fraction(text) for text in texts]
    scales.insert(2, (Fraction("2.7"), Fraction("3.6")))
    small = _cases([(1, 1), (1, 19), (31, 1), (16, 24), (23, 37)], [scale] if scale else scales)
    large = _cases([(96, 128), (256, 1), (5, 256)], [scale or Fraction(2)])
    return [*small, *(Case(c.lr, c.size, 3) for c in small[-2:]), *large]


def compare(
    network: LinfLP,
    session: Run,
    cases: Sequence[Case],
    fixed_scale: bool,
    bar: Bar,
    advance: Callable[[str], None] = lambda note: None,
) -> list[Figures]:
    """Compare a session with the reference and refuse a difference.

    Args:
        network: Reference in float32.
        session: Runs the exported graph.
        cases: What to compare, at least one.
        fixed_scale: Whether the graph has no `geometry` input.
        bar: Largest difference that is accepted.
        advance: Called with each case's name when it is done.

    Returns:
        Figures of every case.

    Raises:
        ParityError: If a bar is missed, a figure cannot be computed, or there is no case.
    """
    if not cases:
        raise ParityError("parity was not checked: no case")
    done = []
    for case in cases:
        figures = _figures(case, *_outputs(network, session, case, fixed_scale))
        missed = figures.misses(bar)
        if missed:
            raise ParityError(f"output differs from PyTorch at {case}: {'; '.join(missed)}")
        done.append(figures)
        advance(str(case))
    return done


def feeds_of(network: LinfLP, case: Case, fixed_scale: bool) -> dict[str, NDArray[Any]]:
    """Inputs of a graph for a case: photographs, and noise of seed 0 without a prior.

    Args:
        network: What the graph was made of.
        case: Sizes and batch.
        fixed_scale: Whether the graph has no `geometry` input.

    Returns:
        `input` (B, 3, h, w), `geometry` (10,) int64, `latent` (B, D, rows, cols).
    """
    feeds: dict[str, NDArray[Any]] = {"input": photographs(case)}
    if not fixed_scale:
        feeds["geometry"] = Window.whole(case.lr, case.size).geometry()
    if network.prior is None:
        rows, cols = network.latent_size(case.size)
        noise = draw_latent(
            0,
            top=0,
            left=0,
            rows=rows,
            columns=cols,
            channels=network.linf.width,
            temperature=TEMPERATURE,
        )
        feeds["latent"] = np.repeat(noise, case.batch, axis=0)
    return feeds


def _outputs(
    network: LinfLP, session: Run, case: Case, fixed_scale: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    feeds = feeds_of(network, case, fixed_scale)
    rgb = torch.from_numpy(feeds["input"])
    latent = torch.from_numpy(feeds["latent"]) if "latent" in feeds else None
    with torch.inference_mode():
        reference = network(rgb, case.size, latent).output.numpy()
    return reference, session.run(feeds)


def _figures(
    case: Case, reference: NDArray[np.float32], output: NDArray[np.float32]
) -> Figures:
    if reference.shape != output.shape:
        raise ParityError(f"output at {case} must be {reference.shape}, got {output.shape}")
    finite = np.isfinite(reference) & np.isfinite(output)
    with np.errstate(invalid="ignore", over="ignore"):  # the count of such values says it
        difference = np.abs(reference.astype(np.float64) - output)
        mse = float(np.mean(difference**2))
    return Figures(
        case,
        max_abs=float(difference.max()),
        max_steps=int(np.abs(_eight_bit(reference) - _eight_bit(output)).max()),
        p999_steps=float(np.percentile(difference, 99.9)) * EIGHT_BIT,
        psnr=math.inf if mse == 0 else -10 * math.log10(mse),
        non_finite=int((~finite).sum()),
    )


def _eight_bit(values: NDArray[np.float32]) -> NDArray[np.int64]:
    clean = np.nan_to_num(np.clip(values, 0, 1))
    return np.rint(clean * EIGHT_BIT).astype(np.int64)


def photographs(case: Case) -> NDArray[np.float32]:
    """Crops of the shipped photographs, (B, 3, h, w) in [0, 1]; they repeat beyond an edge."""
    paths = sorted(PICTURES.glob("*.png"))
    crops = []
    for i in range(case.batch):
        with Image.open(paths[i % len(paths)]) as image:
            photo = np.asarray(image.convert("RGB"))
        rows, cols = (
            np.arange(CROP_ORIGIN, CROP_ORIGIN + n) % side
            for n, side in zip(case.lr, photo.shape[:2], strict=True)
        )
        crops.append(photo[np.ix_(rows, cols)])
    rgb = np.stack(crops).transpose(0, 3, 1, 2)
    return np.asarray(rgb / EIGHT_BIT, np.float32)


def _cases(sizes: Iterable[tuple[int, int]], scales: Iterable[Scale]) -> list[Case]:
    cases = []
    for scale in scales:
        rows, cols = scale if isinstance(scale, tuple) else (scale, scale)
        for h, w in sizes:
            cases.append(Case((h, w), (output_size(h, rows), output_size(w, cols))))
    return cases
