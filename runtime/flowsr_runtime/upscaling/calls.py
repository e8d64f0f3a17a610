"""One upscale call from its tiles to its result, and several whose tiles share features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from flowsr_runtime.pictures.alpha import resize_alpha
from flowsr_runtime.pictures.picture import Picture
from flowsr_runtime.pictures.pixels import store
from flowsr_runtime.upscaling.tile_loop import TileLoop

__all__ = ["Call", "fill_together"]

_ENDED: Final = object()


@dataclass
class Call:
    """An image and its result.

    Attributes:
        picture: The image.
        result: Array of the result, (H, W, channels).
        loop: Its tiles.
        clamp: As for `Upscaler.upscale`.
        truncate: As for `Upscaler.upscale`.
    """

    picture: Picture
    result: NDArray[Any]
    loop: TileLoop
    clamp: bool
    truncate: bool

    def fill(self) -> None:
        """Run the tiles and write the colors; see `TileLoop.fill`."""
        self.loop.fill(self._colors, clamp=self.clamp, truncate=self.truncate)

    def fill_by_tiles(self) -> Iterator[None]:
        """Do the same without resampling, and stop after each tile and each row of tiles."""
        for step in self.loop.tile_steps():
            if step is not None:
                rows, band = step
                store(band, self._colors[rows], clamp=self.clamp, truncate=self.truncate)
            yield None

    def finish(self, warn: Callable[[str], None]) -> NDArray[Any]:
        """Resize alpha, warn of values far out of range, and return the result.

        Args:
            warn: Called with each line.
        """
        if self.picture.alpha is not None:
            self.result[..., -1] = resize_alpha(self.picture.alpha, self.result.shape[:2])
        if self.loop.out_of_range is not None:
            warn(f"the inverse of the flow may have exploded: {self.loop.out_of_range}")
        if self.loop.guarded_patches:
            warn(self.loop.guard_report())
        return self.result[..., 0] if self.picture.pixels.ndim == 2 else self.result

    @property
    def _colors(self) -> NDArray[Any]:
        return self.result[..., : 1 if self.picture.gray else 3]


def fill_together(calls: Sequence[Call], after_tile: Callable[[], None]) -> None:
    """Run the tiles of several calls, each tile for all of them before the next.

    Args:
        calls: Calls with plans of `shared_plans`. One that runs out of memory goes on with
            smaller tiles of its own.
        after_tile: Called when the features of a tile are no longer needed.
    """
    running = [call.fill_by_tiles() for call in calls]
    while running:
        running = [tiles for tiles in running if next(tiles, _ENDED) is not _ENDED]
        after_tile()
