"""LINF-LP and SRFlow-LP in PyTorch: networks as published, checkpoints, training."""

from flowsr_lp.checkpoint import Checkpoint, embedded_checkpoint, load_checkpoint, save_weights
from flowsr_lp.linf.flow import Flow
from flowsr_lp.linf.model import LINF, LinfLP, Prediction, linf_from_spec
from flowsr_lp.linf.prior import EdsrLatent, UNet, prior_from_spec
from flowsr_lp.srflow.model import (
    LatentGrid,
    SRFlow,
    SrflowLP,
    SrflowPrediction,
    srflow_from_spec,
)
from flowsr_lp.srflow.prior import SrflowPrior, srflow_prior_from_spec
from flowsr_runtime.installation import __version__

__all__ = [
    "LINF",
    "Checkpoint",
    "EdsrLatent",
    "Flow",
    "LatentGrid",
    "LinfLP",
    "Prediction",
    "SRFlow",
    "SrflowLP",
    "SrflowPrediction",
    "SrflowPrior",
    "UNet",
    "__version__",
    "embedded_checkpoint",
    "linf_from_spec",
    "load_checkpoint",
    "prior_from_spec",
    "save_weights",
    "srflow_from_spec",
    "srflow_prior_from_spec",
]
