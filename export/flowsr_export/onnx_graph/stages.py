"""Assign the nodes of an exported graph to the stages of the model.

Weights keep the names of the exporter's modules, and the stages run one after another: a node
belongs to the latest stage that has weights its result depends on.
"""

from __future__ import annotations

import onnx

__all__ = ["OTHER", "STAGES", "stages_of"]

STAGES = (
    "geometry",
    "encoder",
    "conditioner",
    "flow encode",
    "prior",
    "flow decode",
    "fold",
    "other",
)
"""Stages in the order of a run; "geometry" is indices and resizing, which need no weights."""

GEOMETRY, ENCODER, CONDITIONER, ENCODE, PRIOR, DECODE, FOLD, OTHER = STAGES
# Stage by the module name inside a weight's name. SRFlow's couplings serve both directions.
MODULES = {
    "encoder": ENCODER,
    "tables": CONDITIONER,
    "phase": CONDITIONER,
    "conditioner": CONDITIONER,
    "chunks": CONDITIONER,
    "encode_maps": ENCODE,
    "forward_maps": ENCODE,
    "steps": ENCODE,
    "split": ENCODE,
    "prior": PRIOR,
    "decode_maps": DECODE,
    "inverse_maps": DECODE,
}


def stages_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the stage of every node by the names of its outputs.

    Args:
        model: Exported graph.

    Returns:
        Stages by tensor name; empty if no weight has the name of a module.
    """
    ranks = {name: i for i, name in enumerate(STAGES)}
    weights = {t.name: _module_stage(t.name) for t in model.graph.initializer}
    known: dict[str, int] = {}
    # Noise inputs are decoded: their readers come after the encoding and the prior.
    known.update({v.name: ranks[DECODE] for v in model.graph.input if "latent" in v.name})
    weighted: set[str] = set()
    for node in model.graph.node:
        own = [weights[name] for name in node.input if weights.get(name)]
        stage = max((known.get(name, 0) for name in node.input), default=0)
        for name in own:
            assert name is not None
            later = stage >= ranks[PRIOR] and name == ENCODE
            stage = max(stage, ranks[DECODE] if later else ranks[name])
        known.update(dict.fromkeys(node.output, stage))
        if own:
            weighted.update(node.output)
    if not weighted:
        return {}
    _mark_fold(model, known, weighted, ranks)
    return {name: STAGES[rank] for name, rank in known.items()}


def _module_stage(name: str) -> str | None:
    """Return the stage of a weight by the first part of its name that is a known module."""
    stages = (MODULES[part] for part in name.split(".") if part in MODULES)
    return next(stages, None)


def _mark_fold(
    model: onnx.ModelProto, known: dict[str, int], weighted: set[str], ranks: dict[str, int]
) -> None:
    """Move the nodes after the last weight from the decoding to the fold."""
    before: set[str] = set()  # tensors with weights, and all they depend on
    for node in reversed(model.graph.node):
        if any(name in weighted or name in before for name in node.output):
            before.update(node.output)
            before.update(node.input)
    for name, rank in known.items():
        if rank == ranks[DECODE] and name not in before:
            known[name] = ranks[FOLD]
