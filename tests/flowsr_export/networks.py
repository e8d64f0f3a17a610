"""Small stand-in networks for the tests of the export."""

from typing import Any

from flowsr_lp import LinfLP
from tests.stand_in import network

__all__ = ["small", "small_model", "small_prior"]


def small_model(**changes: Any) -> dict[str, Any]:
    """Return the spec of a LINF network of a few thousand weights."""
    args = {
        "encoder_spec": {"name": "edsr-baseline", "args": {"n_resblocks": 1, "n_feats": 8}},
        "flow_layers": 2,
        "num_layer": 2,
        "hidden_dim": 8,
        "patch_size": 3,
    }
    return {"name": "linf-patch", "args": args | changes}


def small_prior(**changes: Any) -> dict[str, Any]:
    """Return the spec of a U-Net for it."""
    return {"name": "unet", "args": {"in_chans": 27, "depth": 2, "dim": 8} | changes}


def small(prior: dict[str, Any] | None = None, **changes: Any) -> LinfLP:
    """Return a network with a prior, by default the small U-Net."""
    return network(small_model(**changes), prior or small_prior())
