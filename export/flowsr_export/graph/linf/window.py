"""LINF-LP for a compiler: the window's size is fixed, or follows from the shapes of inputs."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from flowsr_export.graph.axis import Axis, patch_count
from flowsr_export.graph.linf.network import LinfGraph
from flowsr_export.graph.linf.prior import PriorGraph, UNetGraph
from flowsr_lp.linf.encoder import continued

M = TypeVar("M", bound=nn.Module)

__all__ = ["LinfGridGraph", "LinfWindowGraph", "without_products"]


class LinfWindowGraph(nn.Module):
    """The any-scale graph for one window size, at every position and of every image."""

    def __init__(self, linf: LinfGraph, window: tuple[int, int]) -> None:
        """Wrap `linf` for a window (H, W) in output pixels."""
        super().__init__()
        self.linf, self.window = linf, window

    def forward(self, input: Tensor, geometry: Tensor, latent: Tensor | None = None) -> Tensor:
        """Enlarge a tile as `LinfGraph.forward`; the window in `geometry` is not read."""
        height, width = self.window
        grid = patch_count(height, self.linf.patch), patch_count(width, self.linf.patch)
        folded = self.linf.patches(input, *_axes(self.linf, input, geometry, grid), latent)
        return folded[:, :, :height, :width]


class LinfGridGraph(nn.Module):
    """The any-scale graph for a range of sizes; its sizes are lengths, which a compiler knows.

    Sizes that are read from `geometry` instead are no shapes to a compiler: it could not bound
    them.
    """

    def __init__(self, linf: LinfGraph) -> None:
        """Wrap `linf`."""
        super().__init__()
        self.linf = linf

    def forward(
        self,
        input: Tensor,
        geometry: Tensor,
        rows: Tensor,
        columns: Tensor,
        latent: Tensor | None = None,
    ) -> Tensor:
        """Enlarge a tile to whole patches.

        Args:
            input: As for `LinfGraph.forward`.
            geometry: As for `LinfGraph.forward`; the window is not read.
            rows: Any values, (rows of patches,) uint8.
            columns: Any values, (columns of patches,) uint8.
            latent: As for `LinfGraph.forward`.

        Returns:
            RGB, unclamped, (B, 3, p · rows, p · columns): the window is its upper left part.
        """
        grid = rows.shape[0], columns.shape[0]
        return self.linf.patches(input, *_axes(self.linf, input, geometry, grid), latent)


def without_products(graph: M) -> M:
    """Let a graph resize by two taps alone, which a compiler fuses with what follows.

    Inductor also fails on the product of the columns where the sizes are not fixed.

    Args:
        graph: A graph of LINF or SRFlow; it is changed.

    Returns:
        The graph.
    """
    for module in graph.modules():
        if isinstance(module, (LinfGraph, PriorGraph, UNetGraph)):
            module.products = False
    return graph


def _axes(
    linf: LinfGraph, input: Tensor, geometry: Tensor, grid: tuple[int, int]
) -> tuple[Axis, Axis]:
    row, col = (
        Axis(
            geometry[i],
            geometry[2 + i],
            geometry[4 + i],
            geometry[6 + i],
            input.shape[2 + i],
            grid[i],
            linf.patch,
            continued(linf.encoder, input.shape[2 + i]),
            input.device,
        )
        for i in (0, 1)
    )
    return row, col
