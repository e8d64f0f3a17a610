"""Gray, RGB and alpha: an array's channels, and what of them goes through the model."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowsr_runtime.pictures.alpha import enlarged_alpha, filled

__all__ = ["Channels", "joined", "luma"]

_LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R BT.601), as Pillow has them."""


@dataclass(frozen=True)
class Channels:
    """A picture whose channels were told apart.

    Attributes:
        rgb: What the model enlarges, (h, w, 3); gray three times. What is fully transparent
            has the colour of what is visible near it.
        alpha: Alpha, (h, w), or None.
        gray: Whether the result is gray again.
        ndim: 2 for (h, w), 3 for (h, w, channels).
    """

    rgb: NDArray[Any]
    alpha: NDArray[Any] | None
    gray: bool
    ndim: int

    @classmethod
    def of(cls, image: NDArray[Any]) -> "Channels":
        """Tell the channels of a picture apart by their number.

        Args:
            image: Picture that was checked: gray (h, w) or (h, w, 1), gray and alpha
                (h, w, 2), RGB (h, w, 3), or RGBA (h, w, 4).

        Returns:
            The channels; views of `image` where they can be.
        """
        values = image[..., None] if image.ndim == 2 else image
        count = values.shape[2]
        alpha = values[..., -1] if count % 2 == 0 else None
        gray = count < 3
        rgb = np.broadcast_to(values[..., :1], (*values.shape[:2], 3)) if gray else values
        rgb = rgb[..., :3]
        if alpha is not None:
            rgb = filled(rgb, alpha)
        return cls(rgb, alpha, gray, image.ndim)

    @property
    def colours(self) -> int:
        """Channels of the result without alpha."""
        return 1 if self.gray else 3

    @property
    def count(self) -> int:
        """Channels of the result."""
        return self.colours + (self.alpha is not None)

    def finished(self, result: NDArray[Any]) -> NDArray[Any]:
        """Add the alpha to a result whose colours are there.

        Args:
            result: Picture, (H, W, count); its alpha is overwritten.

        Returns:
            The picture, with as many dimensions as the image had.

        Raises:
            MemoryBudgetError: If the alpha does not fit in memory.
        """
        if self.alpha is not None:
            result[..., -1] = enlarged_alpha(self.alpha, (result.shape[0], result.shape[1]))
        return result[..., 0] if self.ndim == 2 else result


def joined(rgb: NDArray[Any], alpha: NDArray[Any] | None, *, gray: bool) -> NDArray[Any]:
    """Return colours and alpha as one array.

    Args:
        rgb: Colours, (h, w, 3); of gray the first channel is taken.
        alpha: Alpha, (h, w) of the same dtype, or None.
        gray: Whether the picture is gray.

    Returns:
        Picture, (h, w, 1 to 4), gray without alpha (h, w).
    """
    colours = rgb[..., :1] if gray else rgb
    if alpha is not None:
        return np.concatenate([colours, alpha[..., None]], axis=2)
    return np.ascontiguousarray(colours[..., 0]) if gray else rgb


def luma(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the gray of colours; that of gray is exact.

    Args:
        rgb: Colours, (h, w, 3), any range.

    Returns:
        Gray, (h, w, 1), in the same units.
    """
    red = rgb[..., :1]
    gray: NDArray[np.float32] = (rgb[..., 1:2] - red) * np.float32(_LUMA[1])
    gray += (rgb[..., 2:3] - red) * np.float32(_LUMA[2])
    gray += red
    return gray
