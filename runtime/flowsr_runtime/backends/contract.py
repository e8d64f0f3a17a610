"""The interface that every backend's session has."""

from collections.abc import Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from flowsr_runtime.bundle.profile_limits import ProfileLimits

__all__ = ["Session"]


class Session(Protocol):
    """A loaded model; `run` may be called from several threads at once."""

    @property
    def backend(self) -> str:
        """Name of the inference library."""

    @property
    def provider(self) -> str:
        """Provider of the library, such as "cpu"."""

    @property
    def device(self) -> int:
        """Index of the device."""

    @property
    def limits(self) -> ProfileLimits | None:
        """Sizes that the session takes, None for all sizes."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Run the model.

        Args:
            feeds: The graph's inputs by name: `input` (B, 3, h, w) float32 or uint8, and
                `geometry` (10,) int64 and latents (B, D, rows, columns) if the graph has them.

        Returns:
            Images, (B, 3, H, W), of the type of `input`; float32 is unclamped.

        Raises:
            MemoryBudgetError: If the device runs out of memory.
        """

    def close(self) -> None:
        """Free the model; the session cannot run after that."""
