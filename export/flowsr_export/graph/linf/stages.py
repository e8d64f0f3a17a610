"""The any-scale graph in two stages: what no scale changes, and what a scale costs."""

from __future__ import annotations

from torch import Tensor, nn

from flowsr_export.graph.linf.network import LinfGraph

__all__ = ["BRANCH", "TABLES", "LinfFeaturesGraph", "LinfQueryGraph"]

TABLES = ("coef_cos", "coef_sin", "freq_rows", "freq_columns")
"""Tables of `LinfGraph.tables_of`, (B, h, w, hidden / 2)."""

BRANCH = "prior_branch"
"""The prior's branch of the image, (B, C, ceil(h/3), ceil(w/3))."""


class LinfFeaturesGraph(nn.Module):
    """First stage: encoder, feature convolutions and the prior's branch of the image."""

    def __init__(self, linf: LinfGraph) -> None:
        """Wrap `linf`."""
        super().__init__()
        self.linf = linf

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        """Compute `TABLES` and, with a prior, `BRANCH` of a tile (B, 3, h, w) in [0, 1]."""
        x = input * 2 - 1
        tables = self.linf.tables_of(x)
        prior = self.linf.prior
        return tables if prior is None else (*tables, prior.branch_of(x))


class LinfQueryGraph(nn.Module):
    """Second stage: everything that depends on the scale."""

    def __init__(self, linf: LinfGraph) -> None:
        """Wrap `linf`."""
        super().__init__()
        self.linf = linf

    def forward(
        self,
        input: Tensor,
        geometry: Tensor,
        coef_cos: Tensor,
        coef_sin: Tensor,
        freq_rows: Tensor,
        freq_columns: Tensor,
        prior_branch: Tensor | None = None,
        latent: Tensor | None = None,
    ) -> Tensor:
        """Enlarge a tile as `LinfGraph.forward`, with the first stage's results."""
        tables = coef_cos, coef_sin, freq_rows, freq_columns
        output: Tensor = self.linf(input, geometry, latent, (tables, prior_branch))
        return output
