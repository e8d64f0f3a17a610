"""Telling an SRFlow network's sizes from the tensors of its checkpoint."""

__all__ = [
    "BLOCKS",
    "is_srflow",
    "is_srflow_prior",
    "srflow_prior_spec",
    "srflow_spec",
    "unwrapped",
]

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from flowsr_lp.linf.architecture import convolution, indices
from flowsr_runtime.errors import CheckpointError

SRFLOW = "of SRFlow"
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
        path: Source of the tensors, for messages.

    Returns:
        `{"name": "srflow", "args": {...}}`, complete: every size is stated.

    Raises:
        CheckpointError: If these are not such tensors, or the stacked blocks are not known.
    """
    splits = indices(tensors, rf"{FLOW}(\d+)\.conv\.weight")
    couplings = indices(tensors, rf"{FLOW}(\d+)\.affine\.fAffine\.0\.weight")
    levels = len(splits) + 2
    if not couplings or len(couplings) % levels:
        raise CheckpointError(
            f"{path} is not an SRFlow model: {len(couplings)} couplings in {levels} levels"
        )
    scale = 1 << (levels - 1)
    nb = len(indices(tensors, r"RRDB\.RRDB_trunk\.(\d+)\.RDB1\.conv1\.weight"))
    nf = convolution(tensors, "RRDB.conv_first.weight", path, SRFLOW)[0]
    hidden, features = convolution(
        tensors, f"{FLOW}{couplings[0]}.affine.fFeatures.0.weight", path, SRFLOW
    )
    stated = dict((named or {}).get("args") or {}).get("blocks")
    stacked = _stacked(stated, blocks, BLOCKS.get((scale, nb)), path)
    if features != nf * (1 + len(stacked)):
        raise CheckpointError(
            f"{path}: the flow reads {features} channels, not the {nf} of the trunk and as "
            f"many of each stacked block {_listed(stacked)}"
        )
    args = {"scale": scale, "nb": nb, "K": len(couplings) // levels, "L": levels}
    growth = convolution(tensors, "RRDB.RRDB_trunk.0.RDB1.conv1.weight", path, SRFLOW)[0]
    widths = {"nf": nf, "gc": growth, "hidden": hidden}
    return {"name": "srflow", "args": args | {"blocks": stacked} | widths}


def srflow_prior_spec(
    tensors: Mapping[str, Tensor], named: Mapping[str, Any] | None, path: str | Path
) -> dict[str, Any]:
    """Describe SRFlow-LP's latent module.

    Args:
        tensors: State dict, unwrapped.
        named: The spec that the file states, None for a bare state dict.
        path: Source of the tensors, for messages.

    Returns:
        `{"name": "unet", "args": {...}}`, complete.

    Raises:
        CheckpointError: If these are not its tensors.
    """
    count = len(indices(tensors, r"input_proj(\d+)\.conv1\.weight"))
    inputs = [
        convolution(tensors, f"input_proj{i}.conv1.weight", path, SRFLOW) for i in range(count)
    ]
    return {
        "name": (named or {}).get("name") or "unet",
        "args": {
            "in_chans": [channels for _, channels in inputs],
            "depth": len(indices(tensors, r"down_layers0\.(\d+)\..*\.0\.weight")),
            "dim": inputs[0][0],
        },
    }


def _stacked(
    stated: object, given: Sequence[int] | None, known: Sequence[int] | None, path: str | Path
) -> list[int]:
    """Choose the stacked blocks: what the file states, else what is given, else known."""
    if stated is not None:
        if not isinstance(stated, list) or not all(type(index) is int for index in stated):
            raise CheckpointError(f"{path} states blocks of another form: {stated!r}")
        if given is not None and list(given) != stated:
            raise CheckpointError(
                f"{path} states that blocks {_listed(stated)} are stacked, got {_listed(given)}"
            )
        return stated
    stacked = given if given is not None else known
    if stacked is None:
        raise CheckpointError(
            f"{path} does not state the stacked blocks of its trunk; give blocks, such as "
            "1, 8, 15 and 22",
            option="blocks",
        )
    return list(stacked)


def _listed(blocks: Sequence[int]) -> str:
    return ",".join(map(str, blocks)) or "none"
