"""A picture in memory: its pixels, ICC profile and metadata."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.geometry import size_text
from flowsr_runtime.pictures.depth import Depth, check_depth, depth_of, promote_depth
from flowsr_runtime.pictures.formats import Mode
from flowsr_runtime.pictures.metadata import Metadata

__all__ = ["MODES", "Picture"]

MODES: Final[dict[int, Mode]] = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Modes by number of channels."""


@dataclass(frozen=True, repr=False)
class Picture:
    """An upright picture; colors and alpha are views of its pixels.

    Attributes:
        pixels: Gray (h, w) or (h, w, 1), gray and alpha (h, w, 2), RGB (h, w, 3) or RGBA
            (h, w, 4); uint8, uint16, or float32 in [0, 1]. A palette is read as RGB.
        icc: ICC profile, or None.
        metadata: Metadata of the file.
    """

    pixels: NDArray[Any]
    icc: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)

    def __repr__(self) -> str:
        profile = ", ICC profile" if self.icc else ""
        depth = "float" if self.depth == "float" else f"{self.depth} bits"
        return f"<Picture {size_text(self.size)} {self.mode}, {depth}{profile}>"

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns, (h, w)."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def mode(self) -> Mode:
        """Gray or RGB, with alpha or without."""
        return MODES[1 if self.pixels.ndim == 2 else self.pixels.shape[2]]

    @property
    def pixel_bytes(self) -> int:
        """Bytes per pixel: channels times bytes per channel."""
        return self.pixels.itemsize * len(self.mode)

    @property
    def gray(self) -> bool:
        """Whether the picture has no colors."""
        return self.mode in ("L", "LA")

    @property
    def depth(self) -> Depth:
        """8 or 16 bits per channel, or "float"."""
        return depth_of(self.pixels)

    @property
    def rgb(self) -> NDArray[Any]:
        """Colors, (h, w, 3); three read-only views of one channel for gray."""
        values = self.pixels[..., None] if self.pixels.ndim == 2 else self.pixels
        return (
            np.broadcast_to(values[..., :1], (*self.size, 3)) if self.gray else values[..., :3]
        )

    @property
    def alpha(self) -> NDArray[Any] | None:
        """Alpha, (h, w), or None."""
        return self.pixels[..., -1] if self.mode in ("LA", "RGBA") else None

    def promote_depth(self, depth: Depth) -> "Picture":
        """Return the picture at a depth, or the picture itself if its own depth is finer.

        Raises:
            UsageError: If there is no such depth.
        """
        check_depth(depth)
        return replace(self, pixels=promote_depth(self.pixels, depth))
