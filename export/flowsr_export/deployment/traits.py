"""Facts about the model families that need no PyTorch."""

from dataclasses import dataclass

__all__ = ["FAMILIES", "Traits"]


@dataclass(frozen=True)
class Traits:
    """Facts about one family.

    Attributes:
        half_share: Least share of the multiply-adds with weights that a half-precision graph
            computes in half precision; the rest stays float32 by design.
        computes_geometry: Whether the graph computes sampling positions from `geometry`.
        license: License of released checkpoints, as text for the manifest.
    """

    half_share: float
    computes_geometry: bool
    license: str


FAMILIES = {
    "linf-lp": Traits(0.95, True, "see the checkpoint's source"),
    "srflow-lp": Traits(
        0.90,
        False,
        "see the checkpoint's source; SRFlow's released ones are CC BY-NC-SA 4.0, for research "
        "only",
    ),
}
"""Every family by its name in the manifest."""
