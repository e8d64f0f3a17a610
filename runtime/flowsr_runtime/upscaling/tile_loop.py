"""One picture on its way through a model: its tiles, their inputs, and what exploded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.backends.session import Session
from flowsr_runtime.bundle.manifest import Manifest
from flowsr_runtime.errors import BundleError, MemoryBudgetError, NonFiniteError
from flowsr_runtime.pictures.pixels import planes
from flowsr_runtime.tiling.exploding_inverse import OutOfRangeValues, find_out_of_range
from flowsr_runtime.tiling.noise import latent as draw_latent
from flowsr_runtime.tiling.planner import TilePlanner
from flowsr_runtime.tiling.tiles import Plan, Tile, blend

__all__ = ["TileLoop", "Progress"]

Progress = Callable[[int, int], None]


@dataclass
class TileLoop:
    """One picture on its way through a model.

    Attributes:
        manifest: Of the model.
        session: The model.
        image: Padded RGB picture, (h, w, 3) uint8, or float32 in [0, 1].
        cutter: Cuts it again where memory runs out.
        plan: How it is cut.
        size: Output size (H, W) without what the padding becomes.
        seed: Seed of the noise.
        temperature: Standard deviation of the latents, None with a learned prior.
        progress: Called with (tiles done, tiles in all) after each tile; the latter grows
            where memory runs out.
        warn: Called with one line when memory runs out and tiles are halved.
        done: Tiles done.
        explosion: Finite values far out of range in the bands so far; a graph that gives
            eight bits hides them.
    """

    manifest: Manifest
    session: Session
    image: NDArray[np.uint8] | NDArray[np.float32]
    cutter: TilePlanner
    plan: Plan
    size: tuple[int, int]
    seed: int
    temperature: float | None
    progress: Progress | None
    warn: Callable[[str], None]
    done: int = 0
    explosion: OutOfRangeValues | None = None

    def __post_init__(self) -> None:
        self._tiles = len(self.plan)

    def row_bands(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Run the tiles and join them, holding one row of tiles at a time.

        Where memory runs out the row is begun again with tiles of half the memory.

        Yields:
            Output rows as a slice, and their pixels, (rows, W, 3), which the caller may
            change: float32, unclamped, or uint8 where nothing was blended.

        Raises:
            BundleError: If the model gives another size or type than is due.
            NonFiniteError: If it gives NaN or infinity.
            MemoryBudgetError: If memory runs out with the smallest tiles.
        """
        height, width = self.size
        for rows, band in blend(self.plan, self._compute, self._smaller):
            kept = slice(rows.start, min(rows.stop, height))
            values = band[: kept.stop - kept.start, :width]
            found = self._find(values, kept.start)
            if found is not None:
                earlier = self.explosion
                self.explosion = found if earlier is None else earlier.joined(found)
            yield kept, values

    def _find(self, values: NDArray[Any], top: int) -> OutOfRangeValues | None:
        """Return what of a band is far out of range; eight bits never are."""
        if self.manifest.io == "uint8":
            return None
        total = self.size[0] * self.size[1] * 3
        return find_out_of_range(values.transpose(2, 0, 1), top=top, total=total)

    def _compute(self, tile: Tile) -> NDArray[Any]:
        """Run one tile and return the pixels that are kept, (rows, columns, 3)."""
        window = tile.window
        output = self.session.run(self._feeds(tile))
        expected = (1, 3, window.rows.out_size, window.columns.out_size)
        if output.shape != expected:
            raise BundleError(f"the model gave {output.shape} where {expected} is due")
        if output.dtype != self.manifest.io:
            raise BundleError(f"the model gave {output.dtype} where {self.manifest.io} is due")
        kept: NDArray[Any] = output[0].transpose(1, 2, 0)[tile.kept]
        if output.dtype != np.uint8:
            self._check_finite(kept, tile.rows.begin, tile.columns.begin)
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self._tiles)
        return kept

    def _smaller(self, plan: Plan, top: int, error: MemoryError) -> Plan:
        """Return smaller tiles from an output row on, and say so."""
        try:
            smaller = self.cutter.smaller(plan, top)
        except (MemoryBudgetError, BundleError) as refusal:
            raise MemoryBudgetError(f"out of memory: {error}; {refusal}") from error
        self._tiles = self.done + len(smaller)
        self.warn(
            f"out of memory with tiles of {plan.largest} output pixels, going on with "
            f"{smaller.largest} from row {top}"
        )
        return smaller

    def _feeds(self, tile: Tile) -> dict[str, NDArray[Any]]:
        rows, columns = tile.window.rows, tile.window.columns
        feeds: dict[str, NDArray[Any]] = {
            "input": planes(self.image[tile.source], self.manifest.io)
        }
        if self.manifest.geometry:
            feeds["geometry"] = tile.window.geometry()
        for stream, latent in enumerate(self.manifest.latents):
            assert self.temperature is not None
            grid = latent.grid((rows.out_size, columns.out_size))
            feeds[latent.name] = draw_latent(
                self.seed,
                top=rows.out_begin // latent.patch,
                left=columns.out_begin // latent.patch,
                rows=grid[0],
                columns=grid[1],
                channels=latent.channels,
                temperature=self.temperature,
                stream=stream,
            )
        return feeds

    def _check_finite(self, kept: NDArray[np.float32], top: int, left: int) -> None:
        """Refuse at once what would spoil the picture, except in what is cropped away."""
        shown = kept[: self.size[0] - top, : self.size[1] - left]
        if np.isfinite(shown).all():
            return
        tile = "" if self._tiles == 1 else f" in tile {self.done + 1} of {self._tiles}"
        found = find_out_of_range(shown.transpose(2, 0, 1), top=top, left=left)
        raise NonFiniteError(f"the model gave NaN or infinity{tile}: {found}")
