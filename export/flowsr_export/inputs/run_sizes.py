"""The sizes of every run of the graph that some pictures need: whole, or their tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import ScaleError
from flowsr_runtime.geometry import Number, Window, exact_scale, output_size, size_for
from flowsr_runtime.tiling.planner import TilePlanner

__all__ = [
    "DEFAULT_SCALE",
    "RunSize",
    "Scale",
    "default_runs",
    "union",
    "run_sizes_for",
    "scales_of",
    "intersection",
]

Size = tuple[int, int]
Scale = Number | tuple[Number, Number]

DEFAULT_SCALE = "4"  # of a model of any scale, where none is asked for
# Sides of the pictures that an engine serves where none is asked for, low-resolution pixels.
LEAST_SIDE, USUAL_SIDE, LARGEST_SIDE = 16, 128, 256
CHANNELS = 3


@dataclass(frozen=True)
class RunSize:
    """What decides the shapes of one run.

    Attributes:
        lr: Low-resolution pixels of the tile (h, w).
        out: Output pixels of the window (H, W).
    """

    lr: Size
    out: Size

    def within(self, other: RunSize) -> bool:
        """Return whether no side is longer than the other run's."""
        mine, theirs = (*self.lr, *self.out), (*other.lr, *other.out)
        return all(a <= b for a, b in zip(mine, theirs, strict=True))

    def memory(self, manifest: Manifest) -> int:
        """Return the activation memory as bundle.json estimates it, bytes."""
        patch = manifest.tiling.halo.patch
        patches = [-(-side // patch) for side in self.out]
        return manifest.memory.estimate(self.lr[0] * self.lr[1], patches[0] * patches[1])

    def feeds(self, manifest: Manifest) -> dict[str, tuple[int, ...]]:
        """Return the graph's inputs for the run as a whole picture.

        Args:
            manifest: The model's.

        Returns:
            Shapes of `input` and the latents, values of `geometry`.
        """
        feeds: dict[str, tuple[int, ...]] = {"input": (1, CHANNELS, *self.lr)}
        if manifest.geometry:
            values = Window.whole(self.lr, self.out).geometry()
            feeds["geometry"] = tuple(int(value) for value in values)
        for latent in manifest.latents:
            feeds[latent.name] = (1, latent.channels, *latent.grid(self.out))
        return feeds


def union(runs: Iterable[RunSize]) -> RunSize:
    """Return the longest of every side."""
    return _sides(max, list(runs))


def intersection(runs: Iterable[RunSize]) -> RunSize:
    """Return the shortest of every side."""
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
    """Return every run that the runtime makes for some pictures.

    Args:
        manifest: The model's.
        pictures: Low-resolution sizes (h, w).
        sizes: Output sizes (H, W); the pictures that give them are found.
        scales: Each picture and size is taken at each; none stands for the model's own, or 4.
        budget: Bytes of activations above which the runtime cuts a picture into tiles.
        halo: What the tiles overlap by, as in `Upscaler.open`.

    Returns:
        Runs in the order in which they were asked for, each once.

    Raises:
        ScaleError: If the model cannot produce a scale or a size.
        MemoryBudgetError: If even the smallest tile does not fit the budget.
    """
    wanted = scales_of(manifest, scales)
    pairs = [(lr, size_for(lr, scale=scale, size=None)) for lr in pictures for scale in wanted]
    pairs += [(_source(manifest, out, scale), out) for out in sizes for scale in wanted]
    tiling = manifest.tiling
    around = tiling.exact if halo == "exact" else tiling.halo
    runs: dict[RunSize, None] = {}
    for pair in pairs:
        lr, out = _padded(manifest, *pair)
        cutter = TilePlanner(
            lr,
            out,
            halo=around,
            memory=manifest.memory,
            fade=0 if halo == "exact" else around.align,
            whole_only=tiling.whole_only,
        )
        for tile in cutter.plan(budget).tiles():
            rows, columns = tile.window.rows, tile.window.columns
            lr_size, out_size = (
                (rows.lr_size, columns.lr_size),
                (rows.out_size, columns.out_size),
            )
            runs[RunSize(lr_size, out_size)] = None
    return list(runs)


def default_runs(
    manifest: Manifest, scales: Sequence[Scale] = (), *, budget: int
) -> tuple[RunSize, RunSize, RunSize]:
    """Return the smallest, the usual and the largest run where no picture is asked for.

    Args:
        manifest: The model's.
        scales: As for `runs_for`; none stands for the model's own, or every one from 1 to 4.
        budget: Bytes of activations that the largest may take.

    Returns:
        Squares; the largest has at most 256 low-resolution pixels a side.
    """
    if not scales and manifest.scale is None:
        scales = ("1", DEFAULT_SCALE)
    wanted = scales_of(manifest, scales)
    step = max(manifest.multiple, manifest.tiling.halo.lr_align)
    sides = range(LEAST_SIDE, LARGEST_SIDE + 1)

    def run(side: int) -> RunSize:
        return union(_square(manifest, side, scale) for scale in wanted)

    fitting = [side for side in sides if run(side).memory(manifest) <= budget]
    top = max([side for side in fitting if side % step == 0] or fitting or [LEAST_SIDE])
    least = intersection(_square(manifest, LEAST_SIDE, scale) for scale in wanted)
    return least, run(min(USUAL_SIDE, top)), run(top)


def scales_of(manifest: Manifest, scales: Sequence[Scale]) -> list[tuple[Fraction, Fraction]]:
    """Return the scales (row, column) that are meant.

    Raises:
        ScaleError: If the model cannot produce one of them.
    """
    fixed = manifest.scale
    pairs = [scale if isinstance(scale, tuple) else (scale, scale) for scale in scales]
    exact = [(exact_scale(row), exact_scale(column)) for row, column in pairs]
    if fixed is None:
        return exact or [(exact_scale(DEFAULT_SCALE),) * 2]
    for pair in exact:
        if pair != (fixed, fixed):
            raise ScaleError(
                f"this model enlarges {float(fixed):g} times only, got "
                f"{float(pair[1]):g}x{float(pair[0]):g}"
            )
    return [(fixed, fixed)]


def _source(manifest: Manifest, out: Size, scale: tuple[Fraction, Fraction]) -> Size:
    """Low-resolution size of an output: exact for a model of one scale, else the nearest."""
    lr = tuple(
        max(1, (2 * side * axis.denominator + axis.numerator) // (2 * axis.numerator))
        for side, axis in zip(out, scale, strict=True)
    )
    made = tuple(output_size(n, axis) for n, axis in zip(lr, scale, strict=True))
    if manifest.scale is not None and made != tuple(out):
        raise ScaleError(
            f"no picture becomes {out[1]}x{out[0]} at {float(scale[0]):g}; "
            f"{lr[1]}x{lr[0]} becomes {made[1]}x{made[0]}"
        )
    size_for((lr[0], lr[1]), scale=None, size=out)
    return lr[0], lr[1]


def _padded(manifest: Manifest, lr: Size, out: Size) -> tuple[Size, Size]:
    """Sizes as the graph takes them: sides of a model of one scale are padded."""
    if manifest.scale is None:
        return lr, out
    h, w = (-(-n // manifest.multiple) * manifest.multiple for n in lr)
    return (h, w), (output_size(h, manifest.scale), output_size(w, manifest.scale))


def _square(manifest: Manifest, side: int, scale: tuple[Fraction, Fraction]) -> RunSize:
    lr = (side, side)
    return RunSize(*_padded(manifest, lr, size_for(lr, scale=scale, size=None)))


def _sides(choose: Callable[[Iterable[int]], int], runs: Sequence[RunSize]) -> RunSize:
    h, w, out_h, out_w = (
        choose(sides) for sides in zip(*((*run.lr, *run.out) for run in runs), strict=True)
    )
    return RunSize((h, w), (out_h, out_w))
