"""Run the tiles of one image through a model and join them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.cuda.nvtx import nvtx_range
from flowsr_runtime.errors import BundleError, MemoryBudgetError, NonFiniteError
from flowsr_runtime.pictures.pixels import allocate, full_range, planes, resampled, store
from flowsr_runtime.tiling.exploding_inverse import (
    OutOfRangeValues,
    count_guarded,
    find_out_of_range,
)
from flowsr_runtime.tiling.graph_inputs import graph_inputs
from flowsr_runtime.tiling.planner import TilePlanner
from flowsr_runtime.tiling.tiles import Plan, Tile, blend_by_tiles
from flowsr_runtime.upscaling.sampling import Noise

__all__ = ["Progress", "TileLoop"]

Progress = Callable[[int, int], None]


@dataclass
class TileLoop:
    """The computation of one image.

    Attributes:
        manifest: Manifest of the model.
        session: Session of the model.
        image: Padded RGB image, (h, w, 3) uint8, uint16, or float32 in [0, 1].
        planner: Planner of smaller tiles, for when memory runs out.
        plan: Tiles of the image.
        size: Output size (H, W) without padding.
        noise: Noise of the latents.
        progress: Called with (tiles done, tiles in all) after each tile; the second number
            grows when memory runs out.
        warn: Called with one line when memory runs out and tiles are halved.
        done: Number of tiles done.
        out_of_range: Finite values far out of range in the bands so far; always None for a
            graph with uint8 output, which hides them.
        guarded_patches: Number of patches in the bands so far that the graph's guard shrank;
            always 0 for a graph without one or with uint8 output.
    """

    manifest: Manifest
    session: Session
    image: NDArray[np.uint8] | NDArray[np.float32]
    planner: TilePlanner
    plan: Plan
    size: tuple[int, int]
    noise: Noise
    progress: Progress | None
    warn: Callable[[str], None]
    done: int = 0
    out_of_range: OutOfRangeValues | None = None
    guarded_patches: int = 0

    def __post_init__(self) -> None:
        self._tiles = len(self.plan)

    def tile_steps(self) -> Iterator[tuple[slice, NDArray[Any]] | None]:
        """Run the tiles and join them, with one row of tiles in memory at a time.

        A row that runs out of memory starts again with tiles of half the memory.

        Yields:
            None after each tile, and after a row of tiles a slice of output rows, and their
            pixels, (rows, W, 3), which the caller may change: float32, unclamped, or uint8 if
            nothing was blended.

        Raises:
            BundleError: If the model returns an unexpected size or type.
            NonFiniteError: If it returns NaN or infinity.
            MemoryBudgetError: If memory runs out with the smallest tiles.
        """
        height, width = self.size
        for step in blend_by_tiles(self.plan, self._compute, self._smaller):
            if step is None:
                yield None
                continue
            rows, band = step
            core = slice(rows.start, min(rows.stop, height))
            values = band[: core.stop - core.start, :width]
            if self.manifest.io != "uint8":  # which hides them
                channels = values.transpose(2, 0, 1)
                found = find_out_of_range(channels, top=core.start, total=3 * height * width)
                if found is not None and self.out_of_range is not None:
                    found = self.out_of_range | found
                self.out_of_range = found or self.out_of_range
                if self.manifest.guard:
                    patch = self.manifest.tiling.exact.patch
                    self.guarded_patches += count_guarded(values, patch)
            yield core, values

    def row_bands(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Run the tiles as `tile_steps`, and yield the rows alone."""
        return (step for step in self.tile_steps() if step is not None)

    def fill(self, result: NDArray[Any], *, clamp: bool, truncate: bool) -> None:
        """Run the tiles and write the image, resampled if its size differs.

        Args:
            result: Array to write to, (H, W, 3 or 1).
            clamp: As for `Upscaler.upscale`.
            truncate: As for `Upscaler.upscale`.

        Raises:
            FlowsrError: As `row_bands`.
        """
        if result.shape[:2] == self.size:
            for rows, band in self.row_bands():
                store(band, result[rows], clamp=clamp, truncate=truncate)
            return
        whole = allocate((*self.size, 3), np.dtype(np.float32))
        for rows, band in self.row_bands():
            whole[rows] = full_range(band)
        store(resampled(whole, result.shape[:2]), result, clamp=clamp, truncate=truncate)

    def guard_report(self) -> str:
        """Return one line with the number of guarded patches and their share."""
        patch = self.manifest.tiling.exact.patch
        total = -(-self.size[0] // patch) * -(-self.size[1] // patch)
        share = 100 * self.guarded_patches / total
        return (
            f"the guard kept {self.guarded_patches} of {total} patches ({share:.3g} %) "
            "in [-0.1, 1.1]"
        )

    def _compute(self, tile: Tile) -> NDArray[Any]:
        """Run one tile and return its pixels without the halo, (rows, columns, 3)."""
        window = tile.window
        with nvtx_range("inputs"):
            inputs = graph_inputs(
                planes(self.image[tile.source], self.manifest.io),
                window,
                latents=self.noise.latents,
                geometry=self.manifest.geometry,
                seed=self.noise.seed,
                temperature=self.noise.temperature,
                strength=self.noise.strength,
            )
        with nvtx_range("graph"):
            output = self.session.run(inputs)
        expected = (1, 3, window.rows.out_size, window.columns.out_size)
        if output.shape != expected:
            raise BundleError(f"model output must have shape {expected}, got {output.shape}")
        if output.dtype != self.manifest.io:
            raise BundleError(f"model output must be {self.manifest.io}, got {output.dtype}")
        core: NDArray[Any] = output[0].transpose(1, 2, 0)[tile.core]
        if output.dtype != np.uint8:
            self._check_finite(core, tile.rows.begin, tile.columns.begin)
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self._tiles)
        return core

    def _smaller(self, plan: Plan, top: int, error: MemoryError) -> Plan:
        """Return smaller tiles from an output row on, and warn."""
        try:
            smaller = self.planner.smaller(plan, top)
        except (MemoryBudgetError, BundleError) as refusal:
            raise MemoryBudgetError(f"out of memory: {error}; {refusal}") from error
        self._tiles = self.done + len(smaller)
        self.warn(
            f"out of memory with tiles of {plan.largest} output pixels, going on with "
            f"{smaller.largest} from row {top}"
        )
        return smaller

    def _check_finite(self, core: NDArray[np.float32], top: int, left: int) -> None:
        """Refuse NaN and infinity at once, except in the padding, which is cropped."""
        visible = core[: self.size[0] - top, : self.size[1] - left]
        # The sum is finite unless a value is not, or millions of them are near the largest.
        if np.isfinite(visible.sum()) or np.isfinite(visible).all():
            return
        tile = "" if self._tiles == 1 else f" in tile {self.done + 1} of {self._tiles}"
        invalid = find_out_of_range(visible.transpose(2, 0, 1), top=top, left=left)
        raise NonFiniteError(f"the model returned NaN or infinity{tile}: {invalid}")
