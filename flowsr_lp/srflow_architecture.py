"""Telling an SRFlow network's sizes from the tensors of its checkpoint."""

__all__ = ["is_srflow", "is_srflow_prior", "srflow_prior_spec", "srflow_spec", "unwrapped"]

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from flowsr_runtime.errors import CheckpointError

WRAPPER = "module."
FLOW = "flowUpsamplerNet.layers."
# Stacked blocks of the released networks, by scale and number of blocks: no tensor shows them.
BLOCKS = {
    (4, 23): (1, 8, 15, 22),
    (8, 23): (1, 3, 5, 7),
    (8, 8): (1, 3, 5, 7),
}


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the prefix `module.` off every name if all have it."""
    if not all(name.startswith(WRAPPER) for name in tensors):
        return dict(tensors)
    return {name.removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}


def is_srflow(tensors: Iterable[str]) -> bool:
    """Whether these are names of an SRFlow network."""
    return any(name.startswith(FLOW) for name in tensors)


def is_srflow_prior(tensors: Iterable[str]) -> bool:
    """Whether these are names of SRFlow-LP's latent module."""
    return any(name.startswith("input_proj0.") for name in tensors)


def srflow_spec(
    tensors: Mapping[str, Tensor],
    named: Mapping[str, Any] | None,
    blocks: Sequence[int] | None,
    path: str | Path,
) -> dict[str, Any]:
    """Describe an SRFlow network.

    Args:
        tensors: State dict, unwrapped.
        named: The spec that the file states, None for a bare state dict.
        blocks: Stacked blocks that the caller states.
        path: Where it came from, for messages.

    Returns:
        `{"name": "srflow", "args": {...}}`, complete: every size is stated.

    Raises:
        CheckpointError: If these are not such tensors, or the stacked blocks are not known.
    """
    splits = _indices(tensors, rf"{FLOW}(\d+)\.conv\.weight")
    couplings = _indices(tensors, rf"{FLOW}(\d+)\.affine\.fAffine\.0\.weight")
    levels = len(splits) + 2
    if not couplings or len(couplings) % levels:
        raise CheckpointError(
            f"{path} is not an SRFlow model: {len(couplings)} couplings in {levels} levels"
        )
    nb = len(_indices(tensors, r"RRDB\.RRDB_trunk\.(\d+)\.RDB1\.conv1\.weight"))
    nf = _outputs(tensors, "RRDB.conv_first.weight", path)
    stated = dict((named or {}).get("args") or {}).get("blocks")
    known = blocks or stated or BLOCKS.get((1 << (levels - 1), nb))
    if known is None:
        raise CheckpointError(
            f"{path} does not say which of its {nb} blocks are stacked; give --blocks, "
            "as in --blocks 1,8,15,22"
        )
    first = tensors[f"{FLOW}{couplings[0]}.affine.fFeatures.0.weight"]
    if first.shape[1] != nf * (1 + len(known)):
        raise CheckpointError(
            f"{path}: {first.shape[1] // nf - 1} blocks are stacked, got {len(known)}: "
            f"{', '.join(map(str, known))}"
        )
    return {
        "name": "srflow",
        "args": {
            "scale": 1 << (levels - 1),
            "nb": nb,
            "K": len(couplings) // levels,
            "L": levels,
            "blocks": list(known),
            "nf": nf,
            "gc": _outputs(tensors, "RRDB.RRDB_trunk.0.RDB1.conv1.weight", path),
            "hidden": first.shape[0],
        },
    }


def srflow_prior_spec(tensors: Mapping[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Describe SRFlow-LP's latent module.

    Raises:
        CheckpointError: If these are not its tensors.
    """
    count = len(_indices(tensors, r"input_proj(\d+)\.conv1\.weight"))
    widths = [_outputs(tensors, f"outc{i}.conv.weight", path) for i in range(count)]
    return {
        "name": "unet",
        "args": {
            "in_chans": widths,
            "depth": len(_indices(tensors, r"down_layers0\.(\d+)\..*\.0\.weight")),
            "dim": _outputs(tensors, "input_proj0.conv1.weight", path),
        },
    }


def _indices(tensors: Iterable[str], pattern: str) -> list[int]:
    return sorted({int(m[1]) for name in tensors if (m := re.fullmatch(pattern, name))})


def _outputs(tensors: Mapping[str, Tensor], name: str, path: str | Path) -> int:
    """Output channels of a convolution's weight."""
    shape = tuple(tensors[name].shape) if name in tensors else ()
    if len(shape) != 4:
        found = f"of shape {shape}" if name in tensors else "missing"
        raise CheckpointError(
            f"{path} is not of SRFlow: {name} must be a convolution's weight, it is {found}"
        )
    return shape[0]
