"""The model families: the only place that tells them apart."""

from __future__ import annotations

from flowsr_export.deployment.interface import Deployment, Network
from flowsr_export.deployment.linf import LinfDeployment
from flowsr_export.deployment.srflow import SrflowDeployment
from flowsr_lp import LinfLP

__all__ = ["deployment_of"]


def deployment_of(network: Network) -> Deployment:
    """Return how a network is deployed."""
    return LinfDeployment(network) if isinstance(network, LinfLP) else SrflowDeployment(network)
