"""Telling a network's architecture from the tensors of its checkpoint."""

__all__ = ["model_spec_from_tensors", "prior_spec_from_tensors"]

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowsr_runtime.errors import CheckpointError

# EDSR's residual scaling leaves no trace in the tensors; the wide configuration uses 0.1.
WIDE_EDSR = 256
RDN_NAMES = {20: "A", 16: "B"}


def model_spec_from_tensors(
    tensors: Mapping[str, Tensor], named: Mapping[str, Any] | None, path: str | Path
) -> dict[str, Any]:
    """Describe a LINF network.

    Args:
        tensors: State dict.
        named: The spec that the file states, None for a bare state dict.
        path: Where it came from, for messages.

    Returns:
        `{"name": "linf" | "linf-patch", "args": {...}}`, complete: every size is stated.

    Raises:
        CheckpointError: If these are not a LINF network's tensors.
    """
    try:
        width = tensors["imnet.last.bias"].numel()
        hidden = tensors["coef.weight"].shape[0]
        convolutions = _count(tensors, r"layers\.(\d+)\.weight")
        layers = _count(tensors, r"imnet\.linears\.(\d+)\.bias")
    except KeyError as error:
        raise CheckpointError(f"{path} is not a LINF model: it lacks {error}") from error
    patch = math.isqrt(width // 3)
    args = dict((named or {}).get("args") or {})
    encoder = dict(args.get("encoder_spec") or {}) or _encoder_spec(tensors, path)
    full: dict[str, Any] = {
        "encoder_spec": {"name": encoder.get("name"), "args": dict(encoder.get("args") or {})},
        "flow_layers": layers,
        "num_layer": convolutions - 1,
        "hidden_dim": hidden,
    }
    if patch > 1:
        full["patch_size"] = patch
    name = (named or {}).get("name") or ("linf-patch" if patch > 1 else "linf")
    return {"name": name, "args": full}


def prior_spec_from_tensors(
    tensors: Mapping[str, Tensor], named: Mapping[str, Any] | None, path: str | Path
) -> dict[str, Any]:
    """Describe a latent module of LINF-LP.

    Args:
        tensors: State dict.
        named: The spec that the file states, None for a bare state dict.
        path: Where it came from, for messages.

    Returns:
        `{"name": "unet" | "edsr-baseline-latent", "args": {...}}`, complete.

    Raises:
        CheckpointError: If these are not a latent module's tensors.
    """
    if "input_proj.conv1.weight" not in tensors:
        raise CheckpointError(
            f"{path} is not a LINF-LP prior: it lacks input_proj.conv1.weight"
        )
    growth, in_chans = tensors["input_proj.conv1.weight"].shape[:2]
    args: dict[str, Any] = {"in_chans": in_chans, "dim": 2 * growth}
    if "outc.conv.weight" in tensors:
        name = "unet"
        args["depth"] = _count(tensors, r"down_layers\.(\d+)\..*\.0\.weight")
    else:
        name = "edsr-baseline-latent"
        args["n_resblocks"] = _count(tensors, r"body\.(\d+)\.body\.0\.weight")
    return {"name": (named or {}).get("name") or name, "args": args}


def _encoder_spec(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    if "encoder.conv_first.weight" in tensors:
        return {
            "name": "rrdb",
            "args": {
                "nf": tensors["encoder.conv_first.weight"].shape[0],
                "nb": _count(tensors, r"encoder\.RRDB_trunk\.(\d+)\.RDB1\.conv1\.weight"),
                "gc": tensors["encoder.RRDB_trunk.0.RDB1.conv1.weight"].shape[0],
            },
        }
    if "encoder.SFENet1.weight" in tensors:
        blocks = _count(tensors, r"encoder\.RDBs\.(\d+)\.LFF\.weight")
        if blocks not in RDN_NAMES:
            raise CheckpointError(f"{path}: rdn must have 16 or 20 dense blocks, got {blocks}")
        width = tensors["encoder.SFENet1.weight"].shape[0]
        return {"name": "rdn", "args": {"G0": width, "RDNconfig": RDN_NAMES[blocks]}}
    if "encoder.head.0.weight" in tensors:
        width = tensors["encoder.head.0.weight"].shape[0]
        blocks = _count(tensors, r"encoder\.body\.(\d+)\.body\.0\.weight")
        name = "edsr" if width >= WIDE_EDSR else "edsr-baseline"
        return {"name": name, "args": {"n_resblocks": blocks, "n_feats": width}}
    raise CheckpointError(f"{path} has an encoder of unknown kind")


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({m[1] for name in tensors if (m := re.fullmatch(pattern, name))})
