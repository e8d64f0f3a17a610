"""Small stand-in networks for the tests of the export."""

from typing import Any

from flowsr_lp import LinfLP, SrflowLP
from tests.stand_in import network, srflow_network

__all__ = [
    "small",
    "small_model",
    "small_prior",
    "small_srflow",
    "small_srflow_model",
    "small_srflow_prior",
]


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


def small_srflow_model(**changes: Any) -> dict[str, Any]:
    """Return the spec of an SRFlow network of some thousand weights."""
    args = {"scale": 4, "nb": 2, "K": 1, "L": 3, "blocks": [0, 1]}
    return {"name": "srflow", "args": args | {"nf": 8, "gc": 4, "hidden": 8} | changes}


def small_srflow_prior(**changes: Any) -> dict[str, Any]:
    """Return the spec of the latent module for it."""
    return {"name": "unet", "args": {"in_chans": [6, 96], "depth": 2, "dim": 8} | changes}


def small_srflow(prior: dict[str, Any] | None = None, **changes: Any) -> SrflowLP:
    """Return an SRFlow network with a prior, by default the small U-Nets."""
    return srflow_network(small_srflow_model(**changes), prior or small_srflow_prior())
