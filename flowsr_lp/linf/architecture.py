"""Telling a network's architecture from the tensors of its checkpoint."""

__all__ = ["convolution", "indices", "model_spec_from_tensors", "prior_spec_from_tensors"]

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flowsr_runtime.errors import CheckpointError

# EDSR's residual scaling leaves no trace in the tensors; the wide configuration uses 0.1.
WIDE_EDSR = 256
RDN_NAMES = {20: "A", 16: "B"}
MODEL, PRIOR = "a LINF model", "a LINF-LP prior"


def model_spec_from_tensors(
    tensors: Mapping[str, Tensor], named: Mapping[str, Any] | None, path: str | Path
) -> dict[str, Any]:
    """Describe a LINF network.

    Args:
        tensors: State dict.
        named: The spec that the file states, None for a bare state dict.
        path: Source of the tensors, for messages.

    Returns:
        `{"name": "linf" | "linf-patch", "args": {...}}`, complete: every size is stated.

    Raises:
        CheckpointError: If these are not a LINF network's tensors.
    """
    if "imnet.last.bias" not in tensors:
        raise CheckpointError(f"{path} is not {MODEL}: it lacks imnet.last.bias")
    patch = math.isqrt(tensors["imnet.last.bias"].numel() // 3)
    hidden, _ = convolution(tensors, "coef.weight", path, MODEL)
    args = dict((named or {}).get("args") or {})
    encoder = dict(args.get("encoder_spec") or {}) or _encoder_spec(tensors, path)
    full: dict[str, Any] = {
        "encoder_spec": {"name": encoder.get("name"), "args": dict(encoder.get("args") or {})},
        "flow_layers": len(indices(tensors, r"imnet\.linears\.(\d+)\.bias")),
        "num_layer": len(indices(tensors, r"layers\.(\d+)\.weight")) - 1,
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
        path: Source of the tensors, for messages.

    Returns:
        `{"name": "unet" | "edsr-baseline-latent", "args": {...}}`, complete.

    Raises:
        CheckpointError: If these are not a latent module's tensors.
    """
    growth, in_chans = convolution(tensors, "input_proj.conv1.weight", path, PRIOR)
    args: dict[str, Any] = {"in_chans": in_chans, "dim": 2 * growth}
    if "outc.conv.weight" in tensors:
        name = "unet"
        args["depth"] = len(indices(tensors, r"down_layers\.(\d+)\..*\.0\.weight"))
    else:
        name = "edsr-baseline-latent"
        args["n_resblocks"] = len(indices(tensors, r"body\.(\d+)\.body\.0\.weight"))
    return {"name": (named or {}).get("name") or name, "args": args}


def _encoder_spec(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    def width(name: str) -> int:
        return convolution(tensors, f"encoder.{name}.weight", path, MODEL)[0]

    if "encoder.conv_after_body.weight" in tensors:
        return {"name": "swinir", "args": _attention_args(tensors, path)}
    if "encoder.conv_first.weight" in tensors:
        blocks = len(indices(tensors, r"encoder\.RRDB_trunk\.(\d+)\.RDB1\.conv1\.weight"))
        growth = width("RRDB_trunk.0.RDB1.conv1")
        return {"name": "rrdb", "args": {"nf": width("conv_first"), "nb": blocks, "gc": growth}}
    if "encoder.SFENet1.weight" in tensors:
        blocks = len(indices(tensors, r"encoder\.RDBs\.(\d+)\.LFF\.weight"))
        if blocks not in RDN_NAMES:
            raise CheckpointError(f"{path}: rdn must have 16 or 20 dense blocks, got {blocks}")
        args = {"G0": width("SFENet1"), "RDNconfig": RDN_NAMES[blocks]}
        return {"name": "rdn", "args": args}
    if "encoder.head.0.weight" in tensors:
        features = width("head.0")
        blocks = len(indices(tensors, r"encoder\.body\.(\d+)\.body\.0\.weight"))
        name = "edsr" if features >= WIDE_EDSR else "edsr-baseline"
        return {"name": name, "args": {"n_resblocks": blocks, "n_feats": features}}
    raise CheckpointError(f"{path} has an encoder of unknown kind")


def _attention_args(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Return the sizes of a SwinIR encoder."""
    depths: list[int] = []
    for group in indices(tensors, r"encoder\.layers\.(\d+)\.conv\.weight"):
        blocks = rf"encoder\.layers\.{group}\.residual_group\.blocks\.(\d+)\.mlp\.fc1\.bias"
        depths.append(len(indices(tensors, blocks)))
    block = "encoder.layers.0.residual_group.blocks.0"
    table, hidden = (
        tensors.get(f"{block}.{name}")
        for name in ("attn.relative_position_bias_table", "mlp.fc1.bias")
    )
    if table is None or hidden is None or table.dim() != 2 or hidden.dim() != 1:
        raise CheckpointError(f"{path} is not {MODEL}: it lacks {block} of SwinIR")
    width, _ = convolution(tensors, "encoder.conv_first.weight", path, MODEL)
    features, _ = convolution(tensors, "encoder.conv_before_upsample.0.weight", path, MODEL)
    heads, ratio = table.shape[1], hidden.numel() // max(width, 1)
    sizes = {"num_heads": heads, "mlp_ratio": ratio, "num_feat": features}
    return {"embed_dim": width, "depths": depths, **sizes}


def convolution(
    tensors: Mapping[str, Tensor], name: str, path: str | Path, what: str
) -> tuple[int, int]:
    """Return the output and input channels of a convolution's weight.

    Args:
        tensors: State dict.
        name: Name of the weight.
        path: Source of the tensors, for messages.
        what: Name of the network, for messages.

    Raises:
        CheckpointError: If it is missing or not a convolution's.
    """
    if name not in tensors:
        raise CheckpointError(f"{path} is not {what}: it lacks {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != 4:
        raise CheckpointError(
            f"{path} is not {what}: {name} must be a convolution's weight, got shape {shape}"
        )
    return shape[0], shape[1]


def indices(names: Iterable[str], pattern: str) -> list[int]:
    """Return the numbers that the group of a pattern takes in names, in order."""
    return sorted({int(m[1]) for name in names if (m := re.fullmatch(pattern, name))})
