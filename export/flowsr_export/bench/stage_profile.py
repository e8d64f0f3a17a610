"""Where the time of a run goes: ONNX Runtime's profile, summed up by the stages of the model.

The stage of a node follows from the graph alone. Weights keep the names of the exporter's
modules, and the stages come one after another: a node belongs to the latest stage whose
weights its result depends on. ONNX Runtime renames and fuses nodes, but what they give keeps
its name; so the graph that it writes after its optimisations leads back to the exported one.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

__all__ = ["STAGES", "stage_seconds", "stages_of"]

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
"""In the order of a run; "geometry" is indices and linear resizing, which need no weight."""

GEOMETRY, ENCODER, CONDITIONER, ENCODE, PRIOR, DECODE, FOLD, OTHER = STAGES
# A module's name in a weight's name, and its stage. SRFlow's couplings are of both directions.
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
KERNEL = "_kernel_time"
BLOCKED = "_nchwc"


def stages_of(model: onnx.ModelProto) -> dict[str, str]:
    """Tell the stage of every node by the name of each of its outputs.

    Args:
        model: Exported graph.

    Returns:
        Stages by the names of tensors; empty if no weight names a module.
    """
    ranks = {name: i for i, name in enumerate(STAGES)}
    weights = {t.name: _module_stage(t.name) for t in model.graph.initializer}
    known: dict[str, int] = {}
    # Noise is decoded: what reads it comes after the encoding and the prior.
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


def stage_seconds(
    model: bytes, feeds: Mapping[str, NDArray[Any]], threads: int, runs: int = 3
) -> dict[str, float]:
    """Profile a graph on ONNX Runtime's CPU provider.

    Args:
        model: ONNX file.
        feeds: Its inputs.
        threads: CPU threads.
        runs: Runs to average, after one that is not counted.

    Returns:
        Seconds of one run by stage, in the order of `STAGES`: the sum of the kernels, less
        than the time of the run by what ONNX Runtime does between them. "other" is what could
        not be led back to the exported graph.
    """
    exported = onnx.load_from_string(model)
    stages = stages_of(exported)
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # as the runtime has it
        options.log_severity_level = 3
        options.optimized_model_filepath = str(optimised)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        names = _renamed(exported, onnx.load(optimised), stages)
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(KERNEL)]
    kernels = kernels[len(kernels) // (runs + 1) :]
    seconds: dict[str, float] = defaultdict(float)
    for event in kernels:
        stage = names.get(event["name"].removesuffix(KERNEL), OTHER)
        seconds[stage] += event["dur"] / 1e6 / runs
    return {stage: seconds[stage] for stage in STAGES if stage in seconds}


def _module_stage(name: str) -> str | None:
    """Stage of a weight by the first part of its name that is a known module."""
    found = (MODULES[part] for part in name.split(".") if part in MODULES)
    return next(found, None)


def _mark_fold(
    model: onnx.ModelProto, known: dict[str, int], weighted: set[str], ranks: dict[str, int]
) -> None:
    """Move what follows the last weight from the decoding to the fold."""
    before: set[str] = set()  # tensors that a node with weights depends on, or is
    for node in reversed(model.graph.node):
        if any(name in weighted or name in before for name in node.output):
            before.update(node.output)
            before.update(node.input)
    for name, rank in known.items():
        if rank == ranks[DECODE] and name not in before:
            known[name] = ranks[FOLD]


def _renamed(
    exported: onnx.ModelProto, optimised: onnx.ModelProto, stages: Mapping[str, str]
) -> dict[str, str]:
    """Stages by node of the graph that ONNX Runtime runs.

    A node in its blocked layout is named after what the exported node gave, with a suffix. One
    that ONNX Runtime put in, such as a change of layout, has the stage of what it reads.
    """
    tensors = dict(stages)
    by_node = {node.name: stages.get(node.output[0], OTHER) for node in exported.graph.node}
    nodes = {}
    for node in optimised.graph.node:
        named = [tensors[name] for name in node.output if name in tensors]
        blocked = stages.get(node.name.removesuffix(BLOCKED))
        read = [tensors[name] for name in node.input if name in tensors]
        found = [*named, blocked, by_node.get(node.name), *read[:1], OTHER]
        stage = next(stage for stage in found if stage is not None)
        for name in node.output:
            tensors.setdefault(name, stage)
        nodes[node.name] = stage
    return nodes
