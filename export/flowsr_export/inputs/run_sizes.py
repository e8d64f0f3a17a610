"""Sizes of the runs of the graph for images of given sizes: whole images or their tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import (
    Number,
    Window,
    exact_scale,
    output_size,
    size_for,
    size_text,
)
from flowsr_runtime.tiling.planner import TilePlanner

__all__ = [
    "DEFAULT_SCALE",
    "LEAST_SIDE",
    "RunSize",
    "Scale",
    "default_runs",
    "intersection",
    "low_resolution_size",
    "padded_run_size",
    "run_sizes_for",
    "scales_of",
    "union",
]

Size = tuple[int, int]
Scale = Number | tuple[Number, Number]

DEFAULT_SCALE = "4"  # of a model that supports any scale
LEAST_SIDE = 16
"""Shortest side of the images that an engine serves, low-resolution pixels."""

# Default sides of the images that an engine serves, low-resolution pixels.
USUAL_SIDE, LARGEST_SIDE = 128, 256
CHANNELS = 3


@dataclass(frozen=True)
class RunSize:
    """Sizes that determine the shapes of one run.

    Attributes:
        lr: Low-resolution pixels of the tile (h, w).
        out: Output pixels of the window (H, W).
    """

    lr: Size
    out: Size

    def within(self, other: RunSize) -> bool:
        """Return whether no side is longer than that of the other run."""
        mine, theirs = (*self.lr, *self.out), (*other.lr, *other.out)
        return all(a <= b for a, b in zip(mine, theirs, strict=True))

    def memory(self, manifest: Manifest) -> int:
        """Return the activation memory estimated by bundle.json, bytes."""
        patch = manifest.tiling.halo.patch
        patches = [-(-side // patch) for side in self.out]
        return manifest.memory.estimate(self.lr[0] * self.lr[1], patches[0] * patches[1])

    def feeds(self, manifest: Manifest) -> dict[str, tuple[int, ...]]:
        """Return the graph's inputs for the run as a whole image.

        Args:
            manifest: Manifest of the model.

        Returns:
            Shapes of `input` and the latents, values of `geometry`.
        """
        feeds: dict[str, tuple[int, ...]] = {"input": (1, CHANNELS, *self.lr)}
        if manifest.geometry:
            feeds["geometry"] = tuple(Window.whole(self.lr, self.out).geometry().tolist())
        for latent in manifest.latents:
            feeds[latent.name] = (1, latent.channels, *latent.grid(self.out))
        return feeds

    def shapes(
        self, manifest: Manifest
    ) -> tuple[dict[str, tuple[int, ...]], dict[str, NDArray[np.int64]]]:
        """Return the shapes of `input` and the latents, and the values of `geometry` if any."""
        feeds = self.feeds(manifest)
        values = {name: np.array(feeds.pop(name)) for name in {"geometry"} & feeds.keys()}
        return feeds, values


def union(runs: Iterable[RunSize]) -> RunSize:
    """Return the maximum of every side."""
    return _sides(max, list(runs))


def intersection(runs: Iterable[RunSize]) -> RunSize:
    """Return the minimum of every side."""
    return _sides(min, list(runs))


def run_sizes_for(
    manifest: Manifest,
    *,
    pictures: Sequence[Size] = (),
    sizes: Sequence[Size] = (),
    scales: Sequence[Scale] = (),
    budget: int,
    halo: Literal["default", "exact"] = "default",
) -> list[RunSize]:
    """Return the runs that the runtime makes for some images.

    Args:
        manifest: Manifest of the model.
        pictures: Low-resolution sizes (h, w).
        sizes: Output sizes (H, W); their low-resolution sizes are derived.
        scales: Scales for each picture and size; empty for the model's own, or 4.
        budget: Bytes of activations above which the runtime cuts an image into tiles.
        halo: Overlap of the tiles, as in `Upscaler.open`.

    Returns:
        Distinct runs in the order of the arguments.

    Raises:
        ScaleError: If the model does not support a scale or a size.
        MemoryBudgetError: If even the smallest tile does not fit the budget.
    """
    exact = scales_of(manifest, scales)
    pairs = [(lr, size_for(lr, scale=scale, size=None)) for lr in pictures for scale in exact]
    pairs += [(low_resolution_size(manifest, out, s), out) for out in sizes for s in exact]
    tiling = manifest.tiling
    around = tiling.exact if halo == "exact" else tiling.halo
    runs: dict[RunSize, None] = {}
    for pair in pairs:
        run = padded_run_size(manifest, *pair)
        planner = TilePlanner(
            run.lr,
            run.out,
            halo=around,
            memory=manifest.memory,
            fade=0 if halo == "exact" else around.align,
            whole_only=tiling.whole_only,
        )
        for tile in planner.plan(budget).tiles():
            rows, columns = tile.window.rows, tile.window.columns
            size = (rows.lr_size, columns.lr_size), (rows.out_size, columns.out_size)
            runs[RunSize(*size)] = None
    return list(runs)


def default_runs(
    manifest: Manifest, scales: Sequence[Scale] = (), *, budget: int
) -> tuple[RunSize, RunSize, RunSize]:
    """Return the smallest, the usual and the largest run that an engine serves by default.

    Args:
        manifest: Manifest of the model.
        scales: Scales; empty for the model's own, or the range from 1 to 4.
        budget: Bytes of activations that the largest may use.

    Returns:
        Squares; the largest has at most 256 low-resolution pixels a side.
    """
    if not scales and manifest.scale is None:
        scales = ("1", DEFAULT_SCALE)
    exact = scales_of(manifest, scales)
    step = max(manifest.multiple, manifest.tiling.halo.lr_align)
    sides = range(LEAST_SIDE, LARGEST_SIDE + 1)

    def run(side: int) -> RunSize:
        return union(_square(manifest, side, scale) for scale in exact)

    fitting = [side for side in sides if run(side).memory(manifest) <= budget]
    top = max([side for side in fitting if side % step == 0] or fitting or [LEAST_SIDE])
    least = intersection(_square(manifest, LEAST_SIDE, scale) for scale in exact)
    return least, run(min(USUAL_SIDE, top)), run(top)


def scales_of(manifest: Manifest, scales: Sequence[Scale]) -> list[tuple[Fraction, Fraction]]:
    """Return the exact scales (row, column); empty `scales` give the model's own, or 4.

    Raises:
        ScaleError: If the model does not support one of them.
    """
    fixed = manifest.scale
    pairs = [scale if isinstance(scale, tuple) else (scale, scale) for scale in scales]
    exact = [(exact_scale(row), exact_scale(column)) for row, column in pairs]
    if fixed is None:
        return exact or [(exact_scale(DEFAULT_SCALE),) * 2]
    for pair in exact:
        if pair != (fixed, fixed):
            got = f"{float(pair[1]):g}x{float(pair[0]):g}"
            wrong = f"this model only supports scale {float(fixed):g}, got {got}"
            raise ScaleError(wrong, option="scale")
    return [(fixed, fixed)]


def low_resolution_size(
    manifest: Manifest, out: Size, scale: tuple[Fraction, Fraction]
) -> Size:
    """Return the low-resolution size (h, w) of an output, exact or else the nearest.

    Raises:
        ScaleError: If a model of one scale cannot produce the output size.
    """
    lr = tuple(
        max(1, (2 * side * axis.denominator + axis.numerator) // (2 * axis.numerator))
        for side, axis in zip(out, scale, strict=True)
    )
    height, width = (output_size(n, axis) for n, axis in zip(lr, scale, strict=True))
    if manifest.scale is not None and (height, width) != tuple(out):
        wrong = f"output size must be a multiple of scale {float(scale[0]):g}, got "
        nearest = f"{size_text(out)}; {width}x{height} is the nearest"
        raise ScaleError(wrong + nearest, option="output_size")
    size_for((lr[0], lr[1]), scale=None, size=out)
    return lr[0], lr[1]


def padded_run_size(manifest: Manifest, lr: Size, out: Size) -> RunSize:
    """Return the sizes that the graph takes; a model of one scale has its sides padded."""
    if manifest.scale is None:
        return RunSize(lr, out)
    h, w = (-(-n // manifest.multiple) * manifest.multiple for n in lr)
    return RunSize((h, w), (output_size(h, manifest.scale), output_size(w, manifest.scale)))


def _square(manifest: Manifest, side: int, scale: tuple[Fraction, Fraction]) -> RunSize:
    lr = (side, side)
    return padded_run_size(manifest, lr, size_for(lr, scale=scale, size=None))


def _sides(choose: Callable[[Iterable[int]], int], runs: Sequence[RunSize]) -> RunSize:
    h, w, out_h, out_w = (
        choose(sides) for sides in zip(*((*run.lr, *run.out) for run in runs), strict=True)
    )
    return RunSize((h, w), (out_h, out_w))
